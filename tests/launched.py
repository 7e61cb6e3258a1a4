"""What each process of a launched training runs in a test: the captured step on a CPU, or one that fails in one of them."""

import os
import sys
from pathlib import Path

from prism.models import captured, launch, own_steps

if __name__ == "__main__":
    if os.environ.get("PRISM_ENGINE") != "plain":
        captured.decide = lambda *_: captured.Plan(16_384)
    if os.environ.get("FAILS_IN") == os.environ["RANK"]:

        def fails(*_: object) -> None:
            raise own_steps.CannotGoOn("the step of one process failed")

        captured.Step._compute = fails  # type: ignore[method-assign]
    launch.main(Path(sys.argv[1]))
