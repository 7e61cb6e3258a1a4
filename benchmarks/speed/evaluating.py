"""Times evaluation alone on a CPU: base answers, label likelihoods and tuned answers of phase 1's 480 held-out rows.

    python -m benchmarks.speed.evaluating [--rows 480] [--beside PYTHON]

The adapter is trained for four steps first, which is not counted; then a process of its own measures it as a finished
one. It prints the wall seconds of each part, as the record of a run has them, and the wall and processor seconds of the
whole process, its start and imports included. `--beside` names the Python of an environment that has
lm-evaluation-harness (`pip install lm_eval`): it gives the same three figures of the same prompts, in a process as well
(`benchmarks/speed/harness.py`), and the answers and likelihoods of both are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from prism.experiment import Experiment
from prism.progress import CONSOLE
from prism.rows.answers import read_likelihoods, read_predictions
from prism.setting import Setting
from prism.spec import Spec, load_spec
from prism.store import Store

ROOT = Path(__file__).resolve().parents[2]
HARNESS = Path(__file__).with_name("harness.py")


def phase1(rows: int, **update: Any) -> Spec:
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml")
    return spec.model_copy(update={"data": spec.data.model_copy(update={"eval_rows": rows}), **update})


def experiment(spec: Spec, home: Path) -> Experiment:
    return Experiment(spec, Setting(ROOT, Store(home), CONSOLE), [spec.seed])


def write_prompts(trained: Experiment, file: Path) -> None:
    """The held-out prompts as the model reads them, for the harness."""
    from prism.models import load
    from prism.models.generate import encode

    base = load.load(trained.spec, ROOT)
    end = base.tokenizer.decode([base.chat.end])
    labels = list(trained.task.labels)
    with file.open("w", encoding="utf-8") as out:
        for example in trained.examples.held_out:
            prompt = base.tokenizer.decode(encode(base, example))
            row = {"id": example.id, "prompt": prompt, "label": labels.index(example.reference)}
            out.write(json.dumps(row | {"choices": [label + end for label in labels], "end": end}) + "\n")


def evaluate(rows: int, folder: Path) -> None:
    """The process that is measured: the finished adapter of `folder` beside its base. Writes what it said and its parts."""
    found = experiment(phase1(rows, adapter=str(folder / "adapter")), folder / "evaluated")
    held_out = found.examples.held_out
    baseline = found.baseline  # which makes the likelihoods, too
    assert found.likelihoods
    said = {
        "base": [prediction.answer for prediction in read_predictions(baseline, held_out)],
        "tuned": [prediction.answer for prediction in read_predictions(next(iter(found.tuned.values())), held_out)],
        "likelihoods": [list(labels.values()) for labels in read_likelihoods(found.likelihoods, held_out)],
    }
    (folder / "prism.json").write_text(json.dumps(said | {"parts": found.clock.read()}), encoding="utf-8")


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--beside", metavar="PYTHON", help="the Python of an environment with lm_eval")
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)  # the folder of the adapter, in the measured process
    given = parser.parse_args()
    if given.of:
        evaluate(given.rows, given.of)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = phase1(given.rows)
        trained = experiment(spec.model_copy(update={"sft": {**spec.sft, "max_steps": 4}}), folder / "trained")
        (folder / "adapter").symlink_to(trained.adapter(spec.seed))
        prism = timed([sys.executable, "-m", "benchmarks.speed.evaluating", "--rows", str(given.rows), "--of", name])
        ours = json.loads((folder / "prism.json").read_text(encoding="utf-8"))
        rows = [[part, seconds, None] for part, seconds in ours["parts"].items() if part != "total"]
        rows.append(["PRISM, the whole process", *prism])
        if given.beside:
            write_prompts(trained, folder / "prompts.jsonl")
            model = str(ROOT / spec.model.model_name)
            harness = timed([given.beside, str(HARNESS), model, name, str(spec.generate["max_new_tokens"])])
            theirs = json.loads((folder / "harness.json").read_text(encoding="utf-8"))
            rows += [[f"lm-eval {part}", seconds, None] for part, seconds in theirs["parts"].items()]
            rows.append([f"lm-evaluation-harness {theirs['version']}, the whole process", *harness])
            rows.append(["PRISM's share", *(a / b for a, b in zip(prism, harness))])
    print(tabulate(rows, [f"{given.rows} held-out rows", "s", "s of processor"], floatfmt=".2f"))
    if given.beside:
        same = {part: sum(a == b for a, b in zip(ours[part], theirs[part])) for part in ("base", "tuned")}
        pairs = zip(ours["likelihoods"], theirs["likelihoods"], strict=True)
        apart = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
        print(f"same answers: {same['base']} of the base, {same['tuned']} tuned; log-likelihoods apart by {apart:.1g}")


if __name__ == "__main__":
    main()
