"""Phase 6: does LoRA teach a small vision-language model to read charts and receipts, or only to guess likely values?

Rows, prompt and controls: prism/tasks/finance_vqa.py. Thresholds: benchmarks/specs/phase6.
"""

import pytest

pytestmark = pytest.mark.phase6


def test_thresholds(spec, threshold, run):
    run.check(threshold)
