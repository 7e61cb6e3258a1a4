"""Phase 1: does LoRA teach a small model to read the mood of a financial text?

Rows, prompt and parsing: prism/tasks/financial_sentiment.py. Thresholds: benchmarks/specs/phase1.
"""

import pytest

pytestmark = pytest.mark.phase1


def test_thresholds(spec, threshold, run):
    run.check(threshold)
