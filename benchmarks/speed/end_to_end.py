"""Compare whole recipes as published: PRISM as it ships, plain TRL with `generate`, and Unsloth's notebook.

    python -m benchmarks.speed.end_to_end --data DIR --out FILE

Each contender runs in its own process on a random-weight twin (fixtures/make/twin.py), with the same rows and steps. PRISM
is `pytest benchmarks -m PHASE --prism-spec SPEC` from an empty store, from its start to its end: baseline, label likelihoods,
training, the adapter's checks, tuned answers, controls, judgements of nobody, report. The others load, answer, train and
answer; a stage of theirs that takes longer than --minutes is extrapolated from its steady part (benchmarks/speed/contenders.py).
A data set that DIR lacks is made of the bundled rows of its phase, repeated up to the recipe's number.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.speed import contenders
from benchmarks.speed.gpu import apart
from prism.devices import cuda_memory
from prism.spec import Spec, load_spec
from prism.store.provenance import versions

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ("phase1/qwen3-4b", "phase2/qwen2.5-1.5b", "phase3/qwen2.5-1.5b")
TWINS = {
    "Qwen3-4B-Instruct-2507": "Qwen3-4B",
    "Qwen2.5-1.5B-Instruct": "Qwen2.5-1.5B",
}  # by the end of [model].model_name
BUNDLED = {"medical_meadow_medical_flashcards": ("medical-flashcards", ("input", "output"))}
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth")
CONTENDERS = {"prism": "PRISM", "trl": "plain TRL and `generate`", "unsloth": "Unsloth's notebook"}


def spec_of(name: str) -> Spec:
    return load_spec(ROOT / "benchmarks" / "specs" / f"{name}.toml")


def model_of(spec: Spec, models: Path) -> str:
    """The folder of a recipe's twin, or of its own local model."""
    last = spec.model.model_name.rpartition("/")[2]
    return str(models / last if last in TWINS else ROOT / spec.model.model_name)


def prepare(names: list[str], folder: Path, data: Path | None, layers: int | None) -> None:
    """Make the twins in `folder`/models and the rows in `folder`/data, as --prism-models and --prism-data read them."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name in names:
        spec = spec_of(name)
        last = spec.model.model_name.rpartition("/")[2]
        if last in TWINS and not (folder / "models" / last / "config.json").exists():
            from fixtures.make.twin import make

            make(TWINS[last], folder / "models" / last, layers)
        own = spec.data.name
        if own is None or (folder / "data" / own).exists():
            continue
        if data and (data / own).is_dir():
            shutil.copytree(data / own, folder / "data" / own)
        elif own in BUNDLED:
            _repeat(*BUNDLED[own], folder / "data" / own / "train.jsonl.gz", rows=6_000)


def _repeat(bundled: str, columns: tuple[str, str], to: Path, rows: int) -> None:
    """Write `rows` rows of a bundled data set, each one with a number, so that none is another's twin."""
    from prism.rows.files import read_rows

    found = read_rows(ROOT / "fixtures" / "data" / bundled / "train.jsonl")
    question, answer = columns
    many = ({question: f"{row['question']} ({n})", answer: row["answer"]} for n in count() for row in found)
    to.parent.mkdir(parents=True)
    with gzip.open(to, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in islice(many, rows))


def prism(name: str, folder: Path) -> dict[str, Any]:
    """Wall seconds of the whole run, the recorded ones of its stages, and the largest memory of a stage."""
    place = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-m", spec_of(name).phase, "--prism-spec", name]
    command += ["--prism-profile", spec_of(name).profile, "--prism-home", str(place / "home")]
    command += ["--prism-report", str(place / "reports"), "--prism-data", str(folder / "data")]
    (folder / "models").mkdir(exist_ok=True)
    command += ["--prism-models", str(folder / "models")]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(place / "compiled")}  # nothing is left of an earlier run
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    result = place / "reports" / "latest" / "results.json"
    if not result.exists():
        raise RuntimeError((done.stdout + done.stderr)[-2_000:])
    spent = json.loads(result.read_text(encoding="utf-8"))["cost"][0]
    shutil.rmtree(place)
    parts = {part: taken for part, taken in spent["clock"].items() if part != "total"}
    parts["start, report and what no part has"] = seconds - sum(parts.values())
    return {"seconds": parts, "total": seconds, "peak_gib": spent["peak_memory_gib"], "extrapolated": []}


def one(name: str, library: str, folder: Path, minutes: float) -> dict[str, Any]:
    """One contender in this process."""
    spec = spec_of(name)
    training, held_out = contenders.rows_of(spec, ROOT, folder / "data")
    os.chdir(tempfile.mkdtemp(dir=folder))  # where trainers leave their folders
    found = asdict(contenders.run(library, spec, model_of(spec, folder / "models"), training, held_out, minutes * 60))
    peak = found["seconds"].pop("peak_gib", None)
    return found | {"total": sum(found["seconds"].values()), "peak_gib": peak}


def table(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """A line a recipe and contender: seconds, how many times PRISM's, memory, and what was extrapolated."""
    rows = []
    for (name, library), line in found.items():
        own = found.get((name, "prism"), {}).get("total")
        total = line.get("total")
        rows.append(
            [
                name,
                CONTENDERS[library],
                f"{total:,.0f}" if total else line["error"],
                f"{own / total:.2f}" if own and total and library != "prism" else "",
                f"{line['peak_gib']:.1f}" if line.get("peak_gib") else "",
                ", ".join(line.get("extrapolated", [])) or ("" if total is None else "nothing"),
            ]
        )
    head = ["recipe", "by", "whole, s", "PRISM takes, of it", "peak, GiB", "extrapolated"]
    return tabulate(
        rows, head, tablefmt="pipe", disable_numparse=True, colalign=("left", "left", *["right"] * 3, "left")
    )


def page(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The machine and libraries, the table, then the seconds of each stage."""
    libraries = ", ".join(f"{name} {number}" for name, number in versions(LIBRARIES).items())
    stages = [
        f"- {name}, {CONTENDERS[library]}: "
        + ", ".join(f"{stage} {seconds:,.1f}" for stage, seconds in line["seconds"].items())
        for (name, library), line in found.items()
        if "seconds" in line
    ]
    card = next((name for name, _ in cuda_memory()), "no GPU")
    head = f"{card}, {datetime.now(UTC):%Y-%m-%d}; {libraries}."
    return f"{head}\n\n{table(found)}\n\nSeconds by stage:\n\n" + "\n".join(stages) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.end_to_end", description=__doc__)
    parser.add_argument("--spec", action="append", help="a recipe (repeatable; by default those of phases 1 to 3)")
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="a contender (repeatable)")
    parser.add_argument("--data", type=Path, help="as --prism-data: a folder with the recipes' data sets")
    parser.add_argument("--folder", type=Path, help="keep twins and rows here, for the next call")
    parser.add_argument("--layers", type=int, help="use twins with fewer layers, for a quick trial")
    parser.add_argument("--minutes", type=float, default=10, help="after which a contender's stage is extrapolated")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    names = given.spec or list(RECIPES)
    if given.one:
        print("\n" + json.dumps(one(names[0], given.one, folder.resolve(), given.minutes)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    prepare(names, folder, given.data, given.layers)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in names:
        for library in given.only or CONTENDERS:
            found[name, library] = _apart(name, library, folder.resolve(), given.minutes)
            print(f"{name}, {library}: {json.dumps(found[name, library])}", flush=True)
            if given.out:  # after each contender, because a GPU lease may end early
                given.out.write_text(page(found), encoding="utf-8")
    print(page(found))


def _apart(name: str, library: str, folder: Path, minutes: float) -> dict[str, Any]:
    """One contender in a process of its own; an error is a line of the table."""
    if library == "prism":
        try:
            return prism(name, folder)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return {"error": str(error).strip().splitlines()[-1][:200]}
    command = [sys.executable, "-m", "benchmarks.speed.end_to_end", "--one", library, "--spec", name]
    command += ["--folder", str(folder), "--minutes", str(minutes)]
    return apart(command)


if __name__ == "__main__":
    main()
