"""Phase 5: does LoRA teach a small vision-language model to read a radiology image, or only to guess from the question?

Rows, prompt and controls: prism/tasks/medical_vqa.py. Thresholds: benchmarks/specs/phase5.
"""

import pytest

pytestmark = pytest.mark.phase5


def test_thresholds(spec, threshold, run):
    run.check(threshold)
