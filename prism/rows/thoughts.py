"""What a reasoning model says besides its thoughts: `<think>…</think>` is no part of the answer."""

from __future__ import annotations

import re

TAG = r"(?:think|thinking|thought|reasoning)\s*>"
_BEGIN = re.compile(f"<{TAG}", re.IGNORECASE)
_END = re.compile(f"</{TAG}", re.IGNORECASE)
_THOUGHT = re.compile(rf"<{TAG}.*?(</{TAG}|\Z)", re.DOTALL | re.IGNORECASE)


def without_thoughts(answer: str) -> tuple[str, bool]:
    """What is said outside thoughts, and whether a thought was cut off: nothing is said after it.

    A prompt may have opened the thought, so an end without a beginning ends one that began with the answer.
    """
    if not (_BEGIN.search(answer) or _END.search(answer)):
        return answer, False
    cut_off = any(not thought[1] for thought in _THOUGHT.finditer(answer))
    return _END.split(_THOUGHT.sub("", answer))[-1].strip(), cut_off
