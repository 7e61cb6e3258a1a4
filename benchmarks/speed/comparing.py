"""How long does it take to compare two runs of 10,000 samples and 20 metrics, and how much memory?

    OMP_NUM_THREADS=1 python -m benchmarks.speed.comparing

Each run has one seed and a scores file, as written by a real run: 16 means of continuous scores and 4 metrics of a
confusion matrix, two of which are recomputed without each sample. The time includes reading the files.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # numpy reads them on import

import argparse
import tempfile
import time
from pathlib import Path

import numpy

from prism.metrics import Metric, mean
from prism.models.cost import peak_memory_gib
from prism.tasks.financial_sentiment import METRICS
from prism.verdicts.compare import compare
from prism.verdicts.possible import require_possible
from prism.verdicts.scores import Measure, Scores, read_scores, write_scores

MEANS = [Metric(f"score {n}", "tier2", lambda *_: numpy.empty(0), mean) for n in range(16)]
LABELLED = [metric for metric in METRICS if metric.against == "baseline"]


def made_up(samples: int, loss: float, random: numpy.random.Generator) -> Scores:
    """ROUGE-like scores, and right answers in 75 % of the samples; `loss` lowers both."""
    ids = tuple(f"{n:012x}" for n in range(samples))
    measures = {}
    for metric in MEANS:
        scores = (random.beta(1, 4, samples).round(6) - loss).clip(0)
        measures[metric.name] = measure(metric, numpy.stack([scores, numpy.ones(samples)], -1))
    truth = numpy.arange(samples) % 3
    answered = numpy.where(random.random(samples) < 0.75 - loss, truth, (truth + 1) % 3)
    cells = numpy.zeros((samples, 12))
    cells[numpy.arange(samples), truth * 4 + answered] = 1
    measures |= {metric.name: measure(metric, cells) for metric in LABELLED}
    return Scores("phase1", "made-up", "nano", "financial_sentiment", "ab" * 32, ids, ids, measures, {}, {})


def measure(metric: Metric, statistics: numpy.ndarray) -> Measure:
    value = float(metric.value(statistics.sum(0)))
    return Measure(metric.tier, 1, "", value, (value, value), {"42": value}, statistics[None], len(statistics))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.comparing", description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    samples = parser.parse_args().samples
    random = numpy.random.default_rng(42)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.json" for name in ("old", "new")]
        for path, loss in zip(paths, (0.0, 0.01)):
            write_scores(made_up(samples, loss, random), path)
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        before, start, start_cpu = peak_memory_gib(), time.perf_counter(), time.process_time()
        old, new = map(read_scores, paths)
        loaded = time.perf_counter()
        for scores in (old, new):
            require_possible(scores, [*MEANS, *LABELLED])
        found, _ = compare(old, new, [*MEANS, *LABELLED], thresholds=20)
        for comparison in found.values():
            comparison.detectable(0.01)
        done = time.perf_counter()
    print(f"{len(found)} metrics, {samples:,} samples, one core; files of {megabytes:.1f} MB")
    print(f"read {loaded - start:.1f} s, compared {done - loaded:.1f} s, together {done - start:.1f} s")
    print(f"processor time {time.process_time() - start_cpu:.1f} s, independent of other load")
    print(f"peak memory {peak_memory_gib():.2f} GiB, {before:.2f} before")


if __name__ == "__main__":
    main()
