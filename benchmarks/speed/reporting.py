"""How long does a report take? Ten phases of 10,000 samples each, and again with the figures in the store.

The target: at most 15 seconds, and report.html at most 5 MB. The rows are the bundled headlines, repeated; the answers
are random, and scored by the code of a real run. The time covers everything that a run does after its last test.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy
from tabulate import tabulate

from prism import report
from prism.models.cost import peak_memory_gib
from prism.rows.examples import load_examples
from prism.spec import load_spec
from prism.store import Store
from prism.tasks import load_task
from prism.verdicts.record import Result, Run
from prism.verdicts.reliability import reliability
from prism.verdicts.scoring import samples, score

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"baseline": (0.2, 0.5), "label_likelihood": (0.4, 0.0), "classical": (0.7, 0.0)}  # right, unparsable
TUNED = dict.fromkeys((42, 43, 44), (0.75, 0.01))


def made_up(n: int) -> tuple[Result, list[dict]]:
    """The result and samples of a spec, with every part that a report shows."""
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml")
    task, random = load_task(spec), numpy.random.default_rng(spec.seed)
    rows = load_examples(spec, task, ROOT)[1]
    asked = [replace(rows[i % len(rows)], id=f"{i}", group=f"{i}") for i in range(n)]

    def answers(right: float, unparsable: float) -> list[str]:
        chosen = random.choice(["right", "unparsable", "any"], n, p=[right, unparsable, 1 - right - unparsable])
        other = {"unparsable": ["I cannot say"], "any": task.labels}
        return [e.reference if what == "right" else random.choice(other[what]) for e, what in zip(asked, chosen)]

    controls = {name: answers(*shares) for name, shares in KINDS.items()}
    tuned = {seed: answers(*shares) for seed, shares in TUNED.items()}
    before = controls.pop("baseline")
    shown = {"baseline": before, "tuned": tuned[42], **controls}
    likelihoods = [dict(zip(task.labels, row)) for row in numpy.log(random.dirichlet([1, 1, 1], n))]
    details = {
        "answers": {name: task.details(asked, found) for name, found in shown.items()},
        "loss": {str(seed): [[i, 3 * math.exp(-i / 300) + random.random()] for i in range(2000)] for seed in tuned},
        "calibration": {"baseline": reliability(likelihoods, [example.reference for example in asked])},
    }
    records = tuple(score(spec, task.metrics, asked, "0" * 64, before, tuned, controls))
    result = Result(spec.phase, spec.name, spec.title, spec.profile, records, details, {"seconds": {"baseline": 1.0}})
    return result, samples(task.metrics, asked, before, tuned[42])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.reporting", description=__doc__)
    parser.add_argument("--phases", type=int, default=10)
    parser.add_argument("--samples", type=int, default=10_000)
    options = parser.parse_args()
    result, sample_rows = made_up(options.samples)
    results = tuple(replace(result, phase=f"phase{i}") for i in range(options.phases))
    run = Run("speed", results, True, "", "pass", "made up", "python -m benchmarks.speed.reporting", {})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what in ("first", "with its figures in the store"):
            wall, processor = time.perf_counter(), time.process_time()
            report.write(Path(folder), run, {found.id: sample_rows for found in results}, Store(Path(folder) / "home"))
            spent = [time.perf_counter() - wall, time.process_time() - processor]
            sizes = [(Path(folder) / name).stat().st_size / 1e6 for name in ("report.html", "report.md")]
            rows.append([what, *spent, *sizes, peak_memory_gib()])
    headers = ["report", "s", "s of one core", "HTML, MB", "Markdown, MB", "peak memory, GiB"]
    print(f"{options.phases} phases of {options.samples:,} samples")
    print(tabulate(rows, headers, floatfmt=(None, ".1f", ".1f", ".2f", ".3f", ".2f")))


if __name__ == "__main__":
    main()
