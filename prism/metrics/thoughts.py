"""What a reasoning model says after its thought: `<think>…</think>` is no part of the answer."""

from __future__ import annotations

import re

_END = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_BEGIN = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.IGNORECASE)


def without_thought(answer: str) -> str:
    """The answer after the end of its last thought; what stands before a thought that was cut off, mostly nothing.

    A prompt may have opened the thought, so its beginning may be missing.
    """
    if "<" not in answer:
        return answer
    *_, spoken = _END.split(answer)
    return _BEGIN.split(spoken, maxsplit=1)[0]
