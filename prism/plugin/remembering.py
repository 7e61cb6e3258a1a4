"""Checks that passed and need not be made again: pytest items marked `remembered`, such as those of phase 0 with a model.

A passed check lies in the store under the digest of all that its result depends on. It passes again, with what it printed
then and its date, until one of these changes; `--prism-retrain` makes it anew. What did not pass is not kept.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pytest

from prism.experiment import Experiment
from prism.models.identity import engine, plain_only
from prism.plugin.session import Session
from prism.rows.remembered import content
from prism.store import file_digest, write_text
from prism.store.provenance import installed, machine, own_source

MARK, KIND = "remembered", "checks"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    if pyfuncitem.get_closest_marker(MARK) is None:
        return (yield)
    setting = pyfuncitem.config.stash[Session.key].setting
    identity = _identity(pyfuncitem)
    if not setting.retrain and (folder := setting.store.find(KIND, identity)):
        kept = json.loads((folder / "check.json").read_text(encoding="utf-8"))
        pyfuncitem.obj = lambda **_: print(f"{kept['printed']}as checked on {kept['date']}")
        return (yield)
    with contextlib.redirect_stdout(_Copied(sys.stdout)) as copied:
        passed = yield

    def keep(folder: Path) -> Mapping[str, Any]:
        kept = {"printed": copied.getvalue(), "date": time.strftime("%Y-%m-%d %H:%M")}
        write_text(folder / "check.json", json.dumps(kept))
        return {}

    setting.store.make(KIND, identity, keep, again=setting.retrain)
    return passed


class _Copied(io.StringIO):
    """What is printed, which is shown all the same."""

    def __init__(self, shown: TextIO) -> None:
        super().__init__()
        self.shown = shown

    def write(self, text: str) -> int:
        self.shown.write(text)
        return super().write(text)


def _identity(item: pytest.Function) -> dict[str, Any]:
    """What determines the result of a check: its code and PRISM's, all that is installed, the machine and its threads.

    Of a check that uses an experiment also its spec, base and rows.
    """
    found = {
        "check": item.name,
        "file": file_digest(item.path),
        "source": own_source(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "installed": installed(),
        "machine": machine(),
        "threads": [
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            *map(os.getenv, THREADS),
        ],
    }
    experiment = item.funcargs.get("experiment")
    return found | _measured(experiment) if isinstance(experiment, Experiment) else found


def _measured(experiment: Experiment) -> dict[str, Any]:
    spec, rows = experiment.spec, experiment.examples
    return {
        "spec": spec.model_dump(mode="json", exclude={"folder"}),
        "task": experiment.task.source,
        "base": experiment.base.identity,
        "rows": [content(rows.training), content(rows.held_out)],
        "engine": [engine(spec), plain_only()],
    }
