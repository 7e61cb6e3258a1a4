"""portfolio.md and portfolio.html of phase 7: what all specs achieved, what it cost, and whether a job was forgotten.

Both are made of the same tables and sentences, and these of records alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism.report import words
from prism.report.claims import Claim
from prism.report.tables import Table
from prism.report.templates import template
from prism.store import write_text
from prism.verdicts.forgetting import Cell
from prism.verdicts.headline import Headline
from prism.verdicts.record import Result, State


@dataclass(frozen=True)
class Entry:
    """One spec: its result and headline, bytes of weights (`base_bytes` None if not in a local folder), training notes."""

    result: Result
    headline: Headline
    adapter_bytes: int
    base_bytes: int | None
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """`missing` maps specs and phases that the page lacks to the reason, `revisions` counts the measured source trees."""

    title: str
    run: str
    profile: str
    entries: tuple[Entry, ...]
    cells: tuple[Cell, ...]
    limit: float
    missing: Mapping[str, str]
    claims: tuple[Claim, ...]
    revisions: int
    provenance: Mapping[str, Any]


def write(folder: Path, page: Page) -> None:
    write_text(folder / "portfolio.md", markdown(page))
    write_text(folder / "portfolio.html", html(page))


def markdown(page: Page) -> str:
    from prism.report.markdown import prose, table

    blocks = [f"# {prose(heading(page))}", prose(head(page))]
    if page.missing:
        blocks += [
            "\n".join(f"- ⚠️ **{prose(name)}** is not on this page: {prose(why)}" for name, why in page.missing.items())
        ]
    for title, note, shown in sections(page):
        blocks += [f"## {prose(title)}", table(shown), *([f"<sub>{prose(note)}</sub>"] if note else [])]
    for entry in page.entries:
        blocks += [f"## {prose(entry.result.title or entry.result.id)}", prose(" ".join(story(entry)))]
    return "\n\n".join(blocks) + "\n"


def html(page: Page) -> str:
    return template("portfolio.html.j2").render(
        page=page,
        words=words,
        heading=heading(page),
        good=is_good(page),
        head=head(page),
        sections=sections(page),
        stories=[(entry.result, story(entry)) for entry in page.entries],
    )


def is_good(page: Page) -> bool:
    """Whether every adapter beats its baseline and its contenders, and none is shown to have hurt another job."""
    beaten = all(each.headline.beats_baseline and each.headline.beats_contenders for each in page.entries)
    return bool(page.entries) and beaten and not any(cell.state == "fails" for cell in page.cells)


def heading(page: Page) -> str:
    won = sum(each.headline.beats_baseline and each.headline.beats_contenders for each in page.entries)
    return (
        f"{page.title}: {won} of {words.count(len(page.entries), 'adapter')} better than the base and than what knows "
        f"nothing"
    )


def head(page: Page) -> str:
    """The second sentence of the page: who was hurt, and what was measured with which code."""
    others = [cell for cell in page.cells if not cell.own]
    hurt = sum(cell.state == "fails" for cell in others)
    forgotten = f"{hurt or 'none'} of {len(others)} pairs of adapter and other job shows a loss above {page.limit:g}"
    commit = str(page.provenance.get("commit") or "")[:8]
    dirty = " with uncommitted changes" if page.provenance.get("dirty") else ""
    code = f"commit {commit}{dirty}" if commit else "code without a commit"
    if page.revisions > 1:
        code = f"{page.revisions} different source trees"
    return f"Of the forgetting matrix, {forgotten}. Profile {page.profile}, run {page.run}, {code}."


def sections(page: Page) -> list[tuple[str, str, Table]]:
    """Title, note and table of each section that has rows."""
    found = [
        (
            "What was achieved",
            "By the first metric of each gate, with 95 % intervals; a positive gain is an improvement.",
            achieved(page.entries),
        ),
        ("What it cost", "An artifact from the store has the cost of when it was made.", cost(page.entries)),
    ]
    for base in dict.fromkeys(cell.base for cell in page.cells):
        cells = [cell for cell in page.cells if cell.base == base]
        found.append((f"Has an adapter hurt another job? Those on {base}", _legend(page, cells), forgetting(cells)))
    claims = [[each.claim, each.measured, each.source or words.NOTHING] for each in page.claims]
    found += [
        ("Jobs that are not shown to be unhurt", "", reasons(page.cells)),
        ("What was published, and what was measured", "", Table(["claim", "measured", "where"], claims, numbers=3)),
    ]
    return [(title, note, shown) for title, note, shown in found if shown.rows]


def _legend(page: Page, cells: Sequence[Cell]) -> str:
    others = sum(not cell.own for cell in page.cells)
    text = (
        f"The answers to the questions of the column, and the loss against the untuned base with its "
        f"{100 - 10 / max(others, 1):.3g} % interval (5 % false alarms over all {words.count(others, 'pair')}). "
    )
    meanings: dict[State, str] = {
        "holds": f"shown not to lose more than {page.limit:g} (one-sided, 5 %)",
        "fails": f"shown to lose more than {page.limit:g}",
        "inconclusive": "neither is shown",
        "skipped": "nothing to forget: the base is not shown to know more than answers that know nothing",
    }
    shown = [
        f"{words.MARKS[state]} {meaning}"
        for state, meaning in meanings.items()
        if any(cell.state == state and not cell.own for cell in cells)
    ]
    return text + "; ".join(shown) + ("." if shown else "")


def achieved(entries: Sequence[Entry]) -> Table:
    rows = []
    for entry in entries:
        record, found = entry.headline.record, entry.headline
        verdicts = [verdict for other in entry.result.records for verdict in other.verdicts]
        holding = sum(verdict.state == "holds" for verdict in verdicts)
        contender = f"{words.number(found.reached)} ({words.control_name(found.contender)})" if found.contender else ""
        beaten = {(True, True): "yes", (True, False): "the baseline only", (False, True): "the latter only"}
        rows.append(
            [
                entry.result.id,
                words.metric_name(record),
                beaten.get((found.beats_baseline, found.beats_contenders), "neither"),
                f"{record.n:,}",
                words.score(record.baseline),
                words.score(record.tuned),
                words.gain(record),
                contender or words.NOTHING,
                f"{holding} of {len(verdicts)}",
            ]
        )
    headers = [
        "spec",
        "metric",
        "beats baseline and what knows nothing",
        "n",
        "baseline [95 %]",
        "tuned [95 %]",
        "gain [95 %]",
    ]
    return Table([*headers, "best that knows nothing", "thresholds that hold"], rows, numbers=3)


def cost(entries: Sequence[Entry]) -> Table:
    rows = []
    for entry in entries:
        notes, spent = entry.notes, entry.result.cost
        trainable, whole = notes.get("trainable"), notes.get("parameters")
        model = (entry.result.details.get("options") or {}).get("model", {}).get("model_name", "")
        rows.append(
            [
                entry.result.id,
                str(model),
                words.parameters(whole - trainable if whole else None),
                words.size(entry.base_bytes),
                words.parameters(trainable),
                words.share(trainable / whole) if whole else words.NOTHING,
                words.size(entry.adapter_bytes),
                words.duration(_training(spent.get("seconds"))),
                words.number(_training(spent.get("tokens_per_second"))),
                words.duration(sum((spent.get("seconds") or {}).values())),
                words.number(spent.get("peak_memory_gib")),
            ]
        )
    headers = ["spec", "base", "parameters of base", "base on disk", "parameters of adapter", "share of all"]
    return Table([*headers, "adapter on disk", "training", "tokens/s", "whole spec", "peak, GiB"], rows, numbers=2)


def _training(stages: Mapping[str, float] | None) -> float | None:
    return next((value for stage, value in (stages or {}).items() if stage.startswith("training")), None)


def forgetting(cells: Sequence[Cell]) -> Table:
    """One row an adapter, one column a job; empty if there is no other job."""
    jobs = {cell.asked: cell.record for cell in cells}
    by_pair = {(cell.adapter, cell.asked): cell for cell in cells}
    rows = [["untuned base", *(words.score(record.baseline) for record in jobs.values())]]
    rows += [[adapter, *(_cell(by_pair[adapter, job]) for job in jobs)] for adapter in jobs]
    headers = [f"{job} ({words.metric_name(record)}, n = {record.n})" for job, record in jobs.items()]
    return Table(["adapter of", *headers], rows if len(jobs) > 1 else [])


def _cell(cell: Cell) -> str:
    value = words.number(cell.record.tuned.value)
    if cell.loss is None:
        return f"{value} (its own job, {words.gain(cell.record)})"
    return f"{words.MARKS[cell.state]} {value} (loss {words.difference(cell.loss)})"


def reasons(cells: Sequence[Cell]) -> Table:
    """Every pair of an adapter and another job that was not shown to be unhurt, worst first."""
    order = list(words.MARKS)
    left = sorted(
        (cell for cell in cells if not cell.own and cell.state != "holds"),
        key=lambda cell: (cell.state == "skipped", order.index(cell.state)),
    )
    rows = [[f"{cell.adapter} on {cell.asked}", words.state_name(cell.state), cell.reason] for cell in left]
    return Table(["adapter and job", "verdict", "why"], rows, numbers=3)


def story(entry: Entry) -> list[str]:
    """Four sentences: the job, what tuning moved, what else reaches it, what it cost."""
    result, found, record = entry.result, entry.headline, entry.headline.record
    return [_job(result), _moved(record), _others(found), _spent(entry)]


def _job(result: Result) -> str:
    data, options = result.details.get("data") or {}, result.details.get("options") or {}
    model = (options.get("model") or {}).get("model_name", "its base")
    held_out = words.count(data.get("held_out", 0), "held-out question")
    if finished := result.details.get("adapter"):
        return f"{result.id} asks {model} {held_out} of {data.get('source')}, without and with {finished['source']}."
    rows = words.count(data.get("training", 0), "row")
    return f"{result.id} trains {model} on {rows} of {data.get('source')} and asks it {held_out}."


def _moved(record: Any) -> str:
    shown = words.in_favour(record.gain, record)
    low = shown.ci[0]
    meaning = "a gain is shown" if low > 0 else "a loss is shown" if shown.ci[1] < 0 else "no gain is shown"
    if math.isnan(low):
        meaning = "the interval is unknown"
    return (
        f"Tuning moves {words.metric_name(record)} from {words.number(record.baseline.value)} to "
        f"{words.number(record.tuned.value)}, {words.difference(shown)}: {meaning}."
    )


def _others(found: Headline) -> str:
    record = found.record
    sign = 1 if record.direction == "higher" else -1
    known = {name: each for name, each in record.controls.items() if math.isfinite(each.value)}
    best = max(known, key=lambda name: sign * known[name].value, default="")
    nothing = (
        f"The best that knows nothing, {words.control_name(found.contender)}, reaches {words.number(found.reached)}"
        if found.contender
        else "No answer that knows nothing can be scored by it"
    )
    if not best:
        return f"{nothing}."
    ahead = words.difference(words.in_favour(known[best].ahead, record))
    return (
        f"{nothing}; of the controls {words.control_name(best)} comes nearest with {words.number(known[best].value)}, "
        f"and the adapter is ahead of it by {ahead}."
    )


def _spent(entry: Entry) -> str:
    notes, spent = entry.notes, entry.result.cost
    verdicts = [verdict for record in entry.result.records for verdict in record.verdicts]
    holding = sum(verdict.state == "holds" for verdict in verdicts)
    weights = f"{words.size(entry.adapter_bytes)} of adapter"
    if whole := notes.get("parameters"):
        weights = f"{weights} ({words.share(notes['trainable'] / whole)} of all parameters)"
    trained = words.duration(_training(spent.get("seconds")))
    took = f"{trained} of training made" if trained != words.NOTHING else "The finished adapter has"
    verb = "holds" if holding == 1 else "hold"
    return f"{took} {weights}, and {holding} of {words.count(len(verdicts), 'threshold')} {verb}."
