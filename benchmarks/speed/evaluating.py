"""Times evaluation alone on a CPU: base answers, label likelihoods and tuned answers of phase 1's 480 held-out rows.

    python -m benchmarks.speed.evaluating [--rows 480]

The adapter is trained for four steps only, which is not counted. It prints the wall seconds of each part, as the record
of a run has them, and the processor seconds of all, which say more on a machine that others use too.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

from tabulate import tabulate

from prism.experiment import Experiment
from prism.models import cost
from prism.progress import CONSOLE
from prism.setting import Setting
from prism.spec import load_spec
from prism.store import Store

ROOT = Path(__file__).resolve().parents[2]


def processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=480)
    given = parser.parse_args()
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml")
    data = spec.data.model_copy(update={"eval_rows": given.rows})
    spec = spec.model_copy(update={"data": data, "sft": {**spec.sft, "max_steps": 4}})
    with tempfile.TemporaryDirectory() as home:
        experiment = Experiment(spec, Setting(ROOT, Store(Path(home)), CONSOLE), [spec.seed])
        spent = processor()
        _ = experiment.baseline, experiment.likelihoods
        before = processor() - spent
        _ = experiment.adapters
        spent = processor()
        _ = experiment.tuned
        parts = experiment.clock.read()
        rows = [[name, seconds] for name, seconds in parts.items() if name.startswith(("answers", "label"))]
        rows += [[name, parts[name]] for name in ("rows", cost.IMPORTS, "loading the base")]
        rows.append(["all, in seconds of processor, without training", before + processor() - spent])
    print(tabulate(rows, [f"{given.rows} held-out rows", "s"], floatfmt=".1f"))


if __name__ == "__main__":
    main()
