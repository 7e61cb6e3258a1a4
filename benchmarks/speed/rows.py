"""Times a run whose rows are a CSV of a million, and the same run again, when all of it is stored.

    python -m benchmarks.speed.rows [--rows 1000000] [--train-rows 64] [--eval-rows 200]

It makes the CSV itself, of random words with a label that follows from them. Each run is a process of its own, so that
its peak memory and its processor seconds are those of the run alone.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "gain",
    "loss",
    "rate",
    "bank",
    "share",
    "cash",
    "debt",
    "fund",
    "price",
    "trade",
    "stock",
    "bond",
    "cost",
    "fee",
    "tax",
    "rise",
    "fall",
    "year",
    "note",
    "board",
]
LABELS = ("up", "down", "flat")
SPEC = """
title   = "a large file"
task    = "classify"
profile = "nano"

[data]
path  = "rows.csv"
split = {{ test_size = 0.2, stratify = "label" }}
{train_rows}
eval_rows  = {eval_rows}

[classify]
labels = ["up", "down", "flat"]
prompt = "{{text}}\\nAnswer with one of {{labels}}."

[model]
model_name = "{model}"
max_seq_length = 128

[lora]
r = 4
target_modules = ["q_proj"]

[sft]
use_cpu = true
bf16 = false
max_steps = 4
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
gradient_checkpointing = false

[generate]
max_new_tokens = 2

[gate.tier1]
accuracy = {{ floor = 0.0 }}
"""
BENCHMARK = "import pytest\npytestmark = pytest.mark.large\ndef test_thresholds(spec, threshold, run):\n    run.check(threshold)\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--train-rows", type=int, default=64, help="0: all")
    parser.add_argument("--eval-rows", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        size = make(project, given.rows, given.train_rows, given.eval_rows)
        sys.stdout.write(f"{given.rows:,} rows, {size / 1e6:.0f} MB\n")
        for what in ("first", "cached", "cached"):
            seconds, processor, megabytes = timed(project)
            sys.stdout.write(f"{what}: {seconds:.2f} s, {processor:.2f} s of processor, peak {megabytes:.0f} MB\n")


def make(project: Path, rows: int, train_rows: int, eval_rows: int) -> int:
    """A project of one spec whose rows are a CSV. Returns the bytes of the CSV."""
    draw = random.Random(42)
    with (project / "rows.csv").open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for number in range(rows):
            words = " ".join(draw.choices(WORDS, k=10))
            file.write(f"{words} {number},{LABELS[len(words) % 3]}\n")
    specs = project / "benchmarks" / "specs" / "large"
    specs.mkdir(parents=True)
    model = ROOT / "fixtures" / "models" / "nano-text"
    trained = f"train_rows = {train_rows}" if train_rows else ""
    (specs / "rows.toml").write_text(SPEC.format(train_rows=trained, eval_rows=eval_rows, model=model), "utf-8")
    (specs.parent.parent / "test_large_rows.py").write_text(BENCHMARK, "utf-8")
    (project / "pytest.ini").write_text("[pytest]\naddopts = -p no:deepeval\n", "utf-8")
    return (project / "rows.csv").stat().st_size


def timed(project: Path) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak memory in MB of one run."""
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "--prism-profile", "nano"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PRISM_HOME": str(project / "home")}
    start = time.perf_counter()
    with (project / "output").open("w") as output:
        child = subprocess.Popen(command, cwd=project, env=environment, stdout=output, stderr=output)
        _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        raise SystemExit((project / "output").read_text(encoding="utf-8"))
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
