"""The `prism` command: what pytest is not asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.errors import PrismError

if TYPE_CHECKING:
    from prism.compare import Comparison
    from prism.reference import Acceptance, Reference
    from prism.spec import Spec

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


Root = Annotated[Path, typer.Option(help="The checkout.")]


@contextmanager
def mistakes() -> Iterator[None]:
    """A person's mistake is one sentence and exit code 2."""
    try:
        yield
    except PrismError as error:
        typer.echo(f"prism: {error}", err=True)
        raise typer.Exit(2) from None


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"prism {version('prism-bench')}")
        raise typer.Exit


@app.callback()
def main(
    show: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which PRISM.")] = False,
) -> None:
    """PRISM: LoRA fine-tuning benchmarks as pytest items. Run them with `pytest benchmarks`."""


@app.command()
def specs(
    root: Annotated[Path, typer.Option(help="The checkout that holds benchmarks/specs.")] = Path("."),
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
) -> None:
    """List every spec: its profile, how long it takes, and whether it can run here."""
    from tabulate import tabulate

    from prism.scheduling import choose_profile, lacking
    from prism.spec import find_specs, load_spec

    rows = []
    with mistakes():
        for path in find_specs(root / "benchmarks" / "specs"):
            spec = load_spec(path)
            minutes = f"{spec.requires.minutes:g}" if spec.requires.minutes else ""
            rows.append(
                [
                    spec.id,
                    spec.profile,
                    minutes,
                    spec.title,
                    lacking(spec, root.resolve(), data) or _without_rows(spec, root.resolve(), data) or "yes",
                ]
            )
    if not rows:
        typer.echo(
            f"prism: {root / 'benchmarks' / 'specs'} holds no specs; run this in a checkout, or name --root", err=True
        )
        raise typer.Exit(2)
    profile, why = choose_profile(None)
    typer.echo(f"profile here: {profile} ({why})\n")
    typer.echo(tabulate(rows, ["spec", "profile", "min", "title", "runs here"], tablefmt="simple"))


def _without_rows(spec: Spec, root: Path, data: Path | None) -> str:
    from prism.data import stand_in
    from prism.spec import is_local

    if stand_in(spec, data) or not is_local(spec.data.path, root):
        return ""
    return "" if (root / Path(spec.data.path).expanduser()).exists() else f"there is no {spec.data.path}"


@app.command("calibrate-judge")
def calibrate_judge(
    judge: Annotated[str | None, typer.Option(help="As --prism-judge; else PRISM_JUDGE.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Your own graded rows: question, answer, reference (or context), grade.")
    ] = None,
    spec: Annotated[str | None, typer.Option(help="Grade by the evaluation steps of this spec: PHASE/NAME.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric to calibrate; else each that the rows name.")] = None,
    scale: Annotated[tuple[float, float], typer.Option(help="Lowest and highest grade of --file.")] = (0.0, 1.0),
    repeats: Annotated[int, typer.Option(min=1, help="How often each answer is graded.")] = 3,
    budget: Annotated[str | None, typer.Option(help="A ceiling: 2.50 (dollars), or 200k tokens.")] = None,
    home: Annotated[Path | None, typer.Option(help="As --prism-home.")] = None,
    root: Annotated[Path, typer.Option(help="The checkout that holds the bundled rows.")] = Path("."),
) -> None:
    """Hold a judge's grades against known ones: agreement, bias by length, spread when asked again."""
    import os

    from tabulate import tabulate
    from tqdm import tqdm

    from prism.judge import DEFINITIONS, asking, calibration, tier3
    from prism.judge.grading import estimate
    from prism.judge.spending import Budget, Spending
    from prism.spec import load_spec
    from prism.store import Store

    store = Store(Path(home or os.environ.get("PRISM_HOME") or "~/.cache/prism").expanduser().resolve())
    with mistakes():
        choice = asking.choose(judge)
        if choice is None:
            raise asking.JudgeError(asking.NOT_CONFIGURED.replace("--prism-judge", "--judge"))
        rows = calibration.read_graded(file or root / calibration.BUNDLED, scale, metric)
        spending = Spending(choice.price, Budget.parse(budget) if budget else None)
        known = dict(DEFINITIONS)
        if spec:
            known |= {d.metric: d for d in tier3.definitions(load_spec(root / "benchmarks" / "specs" / f"{spec}.toml"))}
        for name in dict.fromkeys(row["metric"] for row in rows):
            if name not in known:
                raise asking.JudgeError(f"metric {name!r}: not one of {', '.join(known)}")
            own = [row for row in rows if row["metric"] == name]
            ahead = estimate(choice, known[name], calibration.cases_of(own), store, repeats)
            typer.echo(f"{name}: about {ahead.sentence(choice.price)}", err=True)
            with tqdm(total=len(own) * repeats, disable=None, leave=False) as bar:
                found = calibration.calibrate(
                    choice,
                    known[name],
                    own,
                    store,
                    source=file.name if file else "bundled",
                    constructed=file is None,
                    repeats=repeats,
                    spending=spending,
                    advance=bar.update,
                )
            typer.echo(f"{choice.name}, {name}: {found.sentence()}")
            typer.echo(tabulate(found.kinds, headers="keys", tablefmt="simple", floatfmt=".2f") + "\n")
        typer.echo(f"spent: {spending.spent.sentence(choice.price)}")


@app.command()
def accept(
    run: Annotated[str, typer.Argument(help="A run's folder or id.")] = "reports/latest",
    force: Annotated[
        bool, typer.Option("--force", help="Though it is partial, failed, of fewer seeds or a changed tree.")
    ] = False,
    root: Root = Path("."),
) -> None:
    """Make a run's scores the reference that `drop` thresholds hold later runs against."""
    from prism import reference

    with mistakes():
        for acceptance in reference.accept(reference.locate(run, root), root, force):
            typer.echo(_accepted(acceptance) + "\n")
    typer.echo("Review the change and commit it: git diff --stat reports/reference")


def _accepted(acceptance: Acceptance) -> str:
    """What one acceptance changes: old value → new value of each metric, and how the training sides differ."""
    from tabulate import tabulate

    from prism.compare import differences
    from prism.report import words

    new, old = acceptance.new, acceptance.old
    seeds = words.count(len(new.seeds), "seed")
    if old is None:
        others = ", ".join(
            path.name for path in sorted(acceptance.path.parent.glob(f"{new.spec}@*.json")) if path != acceptance.path
        )
        lines = [f"{acceptance.path}: {acceptance.damage or 'new'}, {seeds}"]
        lines += [f"of other evaluations: {others}; delete what nobody compares with any more"] if others else []
    else:
        lines = [f"{acceptance.path}: replaces that of {old.origin.get('date', '?')}, {seeds} for {len(old.seeds)}"]
    rows = []
    for name in dict.fromkeys([*(old.measures if old else ()), *new.measures]):
        before, after = (side.measures[name].value if side and name in side.measures else None for side in (old, new))
        change = words.signed(after - before) if before is not None and after is not None else ""
        rows.append([name, words.number(before), words.number(after), change])
    lines.append(tabulate(rows, ["metric", "old", "new", "change"], tablefmt="simple", disable_numparse=True))
    lines += [f"{key}: {there} → {here}" for key, there, here in differences(old, new)] if old else []
    return "\n".join(lines)


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="A run, a reference, a folder of them, or git:REV.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The same: what is held against A.")],
    drop: Annotated[float, typer.Option(min=0, help="A loss that is put up with.")] = 0.0,
    flips: Annotated[int, typer.Option(min=0, help="How many flipped samples are listed, each way.")] = 5,
    root: Root = Path("."),
) -> None:
    """Hold B against A, sample by sample. Exit code 1 where B is significantly worse."""
    from prism.compare import compare as hold
    from prism.compare import differences, metrics
    from prism.errors import ReferenceFault
    from prism.reference import gather

    worse = False
    with mistakes():
        pairs = _pairs(gather(before, root), gather(after, root), before, after)
        for old, new in pairs:
            # A metric against a control repeats the scores of another: it would count the same loss twice.
            asked = [metric for metric in metrics(new) if metric.baseline == "baseline"]
            comparisons, without = hold(old, new, asked, len(asked))
            if not comparisons:
                raise ReferenceFault(f"{new.name}: nothing can be compared ({'; '.join(without.values())})")
            typer.echo(_compared(new, list(comparisons.values()), drop))
            lines = [f"{name}: not comparable: {why}" for name, why in without.items()]
            lines += [f"{key}: {there or '–'} → {here or '–'}" for key, there, here in differences(old, new)]
            typer.echo("\n".join([*lines, *_flipped(list(comparisons.values()), new, root, after, flips), ""]))
            worse |= any(comparison.is_worse(drop) for comparison in comparisons.values())
    raise typer.Exit(int(worse))


def _pairs(old: list[Reference], new: list[Reference], before: str, after: str) -> list[tuple[Reference, Reference]]:
    """The specs that both sides measured, each with its own evaluation where one side holds several."""
    from prism.errors import ReferenceFault

    exact = {found.name: found for found in old}
    by_id = {found.id: found for found in old}
    pairs = [(exact.get(found.name) or by_id[found.id], found) for found in new if found.id in by_id]
    if not pairs:
        theirs, ours = (", ".join(sorted({found.id for found in side})) for side in (old, new))
        raise ReferenceFault(
            f"{before} ({theirs}) and {after} ({ours}): no spec in common; name two sides of the same spec"
        )
    return pairs


def _compared(new: Reference, comparisons: list[Comparison], drop: float) -> str:
    from tabulate import tabulate

    from prism.report import words

    first = comparisons[0]
    rows = []
    for found in comparisons:
        interval = f"{words.signed(found.loss.value)} [{words.signed(found.loss.low)}, {words.signed(found.loss.high)}]"
        rows.append(
            [
                found.metric.name + (" ↓" if found.metric.direction == "lower" else ""),
                words.number(found.before),
                words.number(found.after),
                interval,
                f"{found.loss.p:.2g}",
                words.number(found.detectable(drop)),
                f"{len(found.worse):,}" if found.metric.of_one_sample else "",
                f"{len(found.better):,}" if found.metric.of_one_sample else "",
                "WORSE" if found.is_worse(drop) else "",
            ]
        )
    headers = ["metric", "A", "B", f"loss [{100 * first.level:.3g} %]", "p", "caught from", "worse", "better", ""]
    title = (
        f"{new.id}, evaluation {new.evaluation_digest[:8]}, n = {first.n:,}: {first.question}? "
        f"({words.count(first.seeds[0], 'seed')} against {first.seeds[1]})"
    )
    table = tabulate(rows, headers, tablefmt="simple", disable_numparse=True)
    note = f"WORSE: a loss above {drop:g} with p ≤ .05/{len(comparisons)}; caught from: with 80 % power"
    return f"{title}\n\n{table}\n\n{note}"


def _flipped(comparisons: list[Comparison], new: Reference, root: Path, where: str, limit: int) -> list[str]:
    """Samples that flipped, by the first metric that has any; with question and answer where B is a run's folder."""
    import json

    from prism.compare import first_flipped
    from prism.report import words

    found = first_flipped(comparisons)
    if found is None or not limit:
        return []
    texts = {}
    if not where.startswith("git:"):
        from prism.reference import locate

        file = locate(where, root) / "samples" / f"{new.phase}-{new.spec}.jsonl"
        if file.is_file():
            lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
            texts = {line["id"]: line for line in lines}
    shown = []
    for way, ids in (("worse", found.worse), ("better", found.better)):
        shown.append(
            f"{way} by {found.metric.name}: {len(ids):,} samples" + (f", {limit} of them" if len(ids) > limit else "")
        )
        for name in ids[:limit]:
            told = texts.get(name, {})
            said = (
                f"{words.visible(told[key], 80).replace(chr(10), ' ')!r}"
                for key in ("question", "tuned", "reference")
                if key in told
            )
            shown.append("  " + " · ".join([name, *said]))
    return shown


@app.command()
def history(
    spec: Annotated[str | None, typer.Argument(help="One spec, such as phase1/nano.")] = None, root: Root = Path(".")
) -> None:
    """Show each metric over the accepted references in git's history."""
    from tabulate import tabulate

    from prism.errors import ReferenceFault
    from prism.history import history as entries
    from prism.report import words

    with mistakes():
        found = entries(root)
        specs: dict[str, list] = {}
        for entry in found:
            name = f"{entry.file.parent.name}/{entry.file.name.partition('@')[0]}"
            if spec in (None, name, name.partition("/")[2]):
                specs.setdefault(name, []).append(entry)
        if not specs:
            raise ReferenceFault(
                f"no accepted reference{f' of {spec}' if spec else ''} yet; `prism accept` a run, and commit it"
            )
    for name, entries_of in specs.items():
        metrics = list(dict.fromkeys(m for e in entries_of if e.reference for m in e.reference.measures))
        rows = []
        for entry in entries_of:
            head = [entry.commit or "not committed", entry.date, entry.file.stem.partition("@")[2]]
            if entry.reference is None:
                rows.append([*head, "", entry.damage])
                continue
            measures = entry.reference.measures
            values = [words.number(measures[m].value) if m in measures else "" for m in metrics]
            rows.append([*head, str(len(entry.reference.seeds)), *values])
        table = tabulate(
            rows, ["commit", "date", "evaluation", "seeds", *metrics], tablefmt="simple", disable_numparse=True
        )
        typer.echo(f"{name}\n\n{table}\n")


@app.command()
def thresholds(
    spec: Annotated[str, typer.Argument(help="Its name, or its id where several phases have that name.")],
    seeds: Annotated[str, typer.Option(help="As --prism-seeds: 5, 47-51 or 42,47.")] = "5",
    data: Annotated[Path | None, typer.Option(help="As --prism-data.")] = None,
    options: Annotated[list[str] | None, typer.Argument(help="After --: further options for pytest.")] = None,
    root: Root = Path("."),
) -> None:
    """Measure several seeds and propose thresholds, each with its reason, as TOML to paste."""
    import json
    import subprocess
    import sys

    from prism.errors import SpecError
    from prism.propose import FEWEST, propose
    from prism.reference import gather
    from prism.scheduling import training_seeds
    from prism.spec import declared_drops

    with mistakes():
        chosen = _spec(spec, root)
        if len(training_seeds(seeds, chosen.seed)) < FEWEST:
            raise SpecError(f"--seeds {seeds}: a spread between seeds takes at least {FEWEST} of them")
        latest = root.resolve() / "reports" / "latest"
        before = latest.resolve()
        command = [sys.executable, "-m", "pytest", "benchmarks", "-m", chosen.phase, "--prism-spec", chosen.id]
        command += [
            "--prism-seeds",
            seeds,
            "--prism-report",
            "reports",
            *(["--prism-data", str(data.resolve())] if data else []),
        ]
        done = subprocess.run([*command, *(options or [])], cwd=root, stdout=2, check=False)  # stdout is the TOML's
        if latest.resolve() == before:
            raise SpecError(f"{chosen.id}: was not measured (pytest ended with exit code {done.returncode}); see above")
        told = json.loads((latest / "results.json").read_text(encoding="utf-8"))
        records = [record for record in told["records"] if f"{record['phase']}/{record['spec']}" == chosen.id]
        scores = next(scores for scores in gather(str(latest), root) if scores.id == chosen.id)
        own = sum(limit.key == "drop" for limit in chosen.limits())
        typer.echo(propose(chosen, records, scores, declared_drops(root, chosen.profile) - own))


def _spec(name: str, root: Path) -> Spec:
    from prism.errors import SpecError
    from prism.spec import find_specs, load_spec

    paths = [
        path
        for path in find_specs(root / "benchmarks" / "specs")
        if name in (path.stem, f"{path.parent.name}/{path.stem}")
    ]
    if len(paths) != 1:
        ids = ", ".join(f"{path.parent.name}/{path.stem}" for path in paths)
        raise SpecError(
            f"{name}: {f'means {ids}; name one' if ids else 'no such spec; `prism specs` lists those that exist'}"
        )
    return load_spec(paths[0])
