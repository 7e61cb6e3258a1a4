"""Runs of pytest in processes that have the model libraries imported: forks of one that imported them once.

To import them takes longer than the tiny model takes to train, and most tests of whole runs are not about that. Those that
are, or that change what an import reads, use a new interpreter.
"""

import json
import os
import runpy
import select
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Forks:
    """Starts the process to fork from when it is first needed."""

    def __init__(self) -> None:
        self.parent: subprocess.Popen | None = None

    def popen(self, otherwise, command, stdin=None, stdout=None, stderr=None, **options):
        """In place of `pytester.popen`, which is `otherwise` and starts what is not `python -mpytest`."""
        if command[:2] != (sys.executable, "-mpytest"):
            return otherwise(command, stdin=stdin, stdout=stdout, stderr=stderr, **options)
        if self.parent is None:
            own = [sys.executable, "-m", "tests.forked"]
            self.parent = subprocess.Popen(own, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        asked = {
            "arguments": command[2:],
            "folder": os.getcwd(),
            "environment": {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ["PYTHONPATH"]])},
            "files": [stdout.name, stderr.name],
        }
        self.parent.stdin.write(json.dumps(asked).encode() + b"\n")
        return Run(self.parent, int(self.parent.stdout.readline()))

    def close(self) -> None:
        if self.parent is not None:
            self.parent.stdin.close()
            self.parent.wait()


class Run:
    """What `pytester` needs of a subprocess."""

    def __init__(self, parent: subprocess.Popen, pid: int) -> None:
        self.parent, self.pid, self.returncode, self.stdin = parent, pid, None, None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self.parent.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a fork", timeout)
            self.returncode = int(self.parent.stdout.readline())
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def main() -> None:
    """Import, then fork for each line of standard input; say the child's process id and its exit code."""
    import datasets  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import peft  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import transformers.models.auto.modeling_auto  # noqa: F401
    import trl.trainer.sft_trainer  # noqa: F401

    while line := sys.stdin.buffer.raw.readline():
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(asked)
            return
        os.write(1, b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(1, b"%d\n" % code)


def become(asked) -> None:
    """Be the process that `python -m pytest` would have been."""
    for number, name in enumerate([os.devnull, *asked["files"]]):
        opened = os.open(name, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.path[:0] = asked["environment"]["PYTHONPATH"].split(os.pathsep)
    sys.argv = ["pytest", *asked["arguments"]]
    runpy.run_module("pytest", run_name="__main__")


if __name__ == "__main__":
    main()
