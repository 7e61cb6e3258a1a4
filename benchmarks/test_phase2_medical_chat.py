"""Phase 2: does LoRA teach a small model to explain a medical term, or only to sound like a flashcard?

Rows, prompt and failure patterns: prism/tasks/medical_chat.py. Thresholds: benchmarks/specs/phase2.
"""

import pytest

pytestmark = pytest.mark.phase2


def test_thresholds(spec, threshold, run):
    run.check(threshold)
