"""Processes that end in the middle: a fork that kills itself with SIGKILL at the n-th call, or wherever the work says."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "chmod", "symlink", "truncate")  # of `os`


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ended(work: Callable[[], object]) -> bool:
    """Do the work in a fork; whether it came to its end and was not killed. What it raises is an error here."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001  # the parent's tests must not go on in the fork
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), "the work raised an error, see stderr"
    return code == 0


def ended_before(number: int, work: Callable[[], object]) -> bool:
    """`ended`, where the work is killed right before its call `number` of those that change a file system."""
    left = number

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                kill()
            return call(*arguments, **options)

        return counting

    def watched() -> object:
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        return work()

    return ended(watched)
