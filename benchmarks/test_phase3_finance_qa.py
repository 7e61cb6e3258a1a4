"""Phase 3: does LoRA teach a small model to extract, calculate and cite from a filing, or only to sound more certain?

Rows, prompt and controls: prism/tasks/finance_qa.py. Thresholds: benchmarks/specs/phase3.
"""

import pytest

pytestmark = pytest.mark.phase3


def test_thresholds(spec, threshold, run):
    run.check(threshold)
