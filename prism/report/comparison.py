"""Text for the command line: what an acceptance changes, how two runs compare, and a spec's accepted runs over time."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prism.report import words
from prism.report.tables import Table
from prism.report.terminal import WIDTH, drawn
from prism.untrusted import visible
from prism.verdicts.accepted import Acceptance
from prism.verdicts.compare import Comparison, differences, first_flipped
from prism.verdicts.history import Entry
from prism.verdicts.scores import Measure, Scores


def acceptance_summary(acceptance: Acceptance, columns: int = WIDTH) -> str:
    """What accepting a run changes: each metric's old and new value, and how the training sides differ."""
    new, old = acceptance.new, acceptance.old
    seeds = words.count(len(new.seeds), "seed")
    if old is None:
        others = ", ".join(
            path.name for path in sorted(acceptance.path.parent.glob(f"{new.spec}@*.json")) if path != acceptance.path
        )
        lines = [f"{acceptance.path}: {acceptance.damage or 'new'}, {seeds}"]
        lines += [f"files of other evaluations: {others}; delete those that you no longer need"] if others else []
    else:
        date = old.origin.get("date", "?")
        lines = [f"{acceptance.path}: replaces the run of {date}, {seeds} instead of {len(old.seeds)}"]
    lines += [*_of_one_seed(new), *_picked(new.origin)]
    sides = [side for side in (old, new) if side]
    gains = {name for side in sides for name, measure in side.measures.items() if measure.gain is not None}
    rows = []
    for name in dict.fromkeys([*(old.measures if old else ()), *new.measures]):
        before, after = (_value(side, name, gains) for side in (old, new))
        change = words.signed(after - before) if before is not None and after is not None else ""
        rows.append([name, words.number(before), words.number(after), change])
    lines += drawn(Table(["metric", "old", "new", "change"], rows), columns)
    lines += [f"{key}: {before} → {after}" for key, before, after in differences(old, new)] if old else []
    return "\n".join(lines)


def _value(scores: Scores | None, name: str, gains: Collection[str]) -> float | None:
    """A metric's value; of those of `gains`, which are named after it, the gain, which older files lack."""
    measure: Measure | None = scores.measures.get(name) if scores else None
    return None if measure is None else measure.gain if name in gains else measure.value


DECISIONS = {"fails": "WORSE", "holds": "not worse", "inconclusive": "undecided"}


def comparison_table(new: Scores, comparisons: Sequence[Comparison], drop: float, columns: int = WIDTH) -> str:
    """Each metric of two runs: the decision, its loss, the p of no more than `drop`, how many samples flipped."""
    first = comparisons[0]
    rows = []
    for found in comparisons:
        interval = f"{words.signed(found.loss.value)} [{words.signed(found.loss.low)}, {words.signed(found.loss.high)}]"
        rows.append(
            [
                DECISIONS[found.state(drop)],
                words.metric_name(found.metric),
                words.number(found.before),
                words.number(found.after),
                interval,
                f"{found.exceeds(drop):.2g}",
                words.number(found.detectable(drop)),
                f"{len(found.worse):,}" if found.metric.sample != "nothing" else "",
                f"{len(found.better):,}" if found.metric.sample != "nothing" else "",
            ]
        )
    headers = [
        "verdict",
        "metric",
        "A",
        "B",
        f"loss [{100 * first.level:.3g} %]",
        "p",
        "caught from",
        "worse",
        "better",
    ]
    title = (
        f"{new.id}, evaluation {new.evaluation_digest[:8]}, n = {first.n:,}: {first.question}? "
        f"({words.count(first.seeds[0], 'seed')} against {first.seeds[1]}; it speaks of {words.SPEAKS_OF[first.question]})"
    )
    table = "\n".join(drawn(Table(headers, rows, numbers=2), columns))
    tests: dict[str, list[str]] = {}
    for found in comparisons:
        tests.setdefault(found.rule, []).append(found.metric.name)
    by_rule = "; ".join(f"{rule} ({', '.join(names)})" for rule, names in tests.items())
    note = (
        f"WORSE: the loss is shown to exceed {drop:g}, p ≤ {first.alpha:.2g}; not worse: it is shown not to, p ≤ .05; "
        f"undecided: neither; p: of a loss of at most {drop:g}; caught from: the smallest loss shown with 80 % power, {words.NOTHING} if n is too "
        f"small for any loss; "
        f"tests: {by_rule}"
    )
    return f"{textwrap.fill(title, columns)}\n\n{table}\n\n{textwrap.fill(note, columns)}"


def closing_sentence(found: Mapping[str, Sequence[Comparison]], drop: float) -> str:
    """What the comparison of two runs comes to, over all specs."""
    states = Counter(each.state(drop) for of_spec in found.values() for each in of_spec)
    loss = f"a loss of more than {drop:g}" if drop else "any loss"
    if states["fails"]:
        lost = [
            f"{spec} {each.metric.name} by {words.number(each.loss.value)}"
            for spec, of_spec in found.items()
            for each in of_spec
            if each.is_worse(drop)
        ]
        return f"B is worse than A: {loss.replace('any', 'a')} is shown in {', '.join(lost)}."
    total = words.count(states.total(), "metric")
    if not states["inconclusive"]:
        return f"B is not worse than A: {loss} is ruled out in all of {total}."
    remedy = (
        "more rows or seeds decide" if drop else "--drop names a loss that is tolerated, and more rows or seeds decide"
    )
    ruled_out = f"{loss} is ruled out in {states['holds']:,} of {total}"
    return f"B is neither shown to be worse than A nor shown not to be: {ruled_out}; {remedy}."


def flipped_samples(
    comparisons: Sequence[Comparison], samples: Mapping[str, Mapping[str, str]], limit: int
) -> list[str]:
    """Samples that flipped on the first metric with any flips, with question and answer if `samples` has their id."""
    found = first_flipped(comparisons)
    if found is None or not limit:
        return []
    shown = []
    for way, ids in (("worse", found.worse), ("better", found.better)):
        shown.append(
            f"{way} by {found.metric.name}: {len(ids):,} samples" + (f", {limit} of them" if len(ids) > limit else "")
        )
        for name in ids[:limit]:
            sample = samples.get(name, {})
            texts = (
                f"{visible(sample[key], 80).replace(chr(10), ' ')!r}"
                for key in ("question", "tuned", "reference")
                if key in sample
            )
            shown.append("  " + " · ".join([name, *texts]))
    return shown


def history_table(entries: Sequence[Entry], gains: Collection[str] = (), columns: int = WIDTH) -> str:
    """The accepted runs of one spec, oldest first, in as many tables as the metrics need; of `gains`, each gain."""
    heads = ["commit", "date", "evaluation", "seeds"]
    rows = [
        [
            e.commit or "not committed",
            e.date,
            e.file.stem.partition("@")[2],
            f"{len(e.scores.seeds)}" if e.scores else "",
        ]
        for e in entries
    ]
    tables, shown = [], list[str]()
    for metric in dict.fromkeys(m for e in entries if e.scores for m in e.scores.measures):
        wider = _history([*shown, metric], heads, rows, entries, gains)
        if shown and max(map(len, drawn(wider, 10_000))) > columns:
            tables.append(_history(shown, heads, rows, entries, gains))
            shown = []
        shown.append(metric)
    tables.append(_history(shown, heads, rows, entries, gains))
    lines = ["\n".join(drawn(table, columns)) for table in tables]
    lacking = {
        m for e in entries if e.scores for m, one in e.scores.measures.items() if m in gains and one.gain is None
    }
    note = [f"{words.NOTHING}: accepted before gains were kept ({', '.join(sorted(lacking))})"] if lacking else []
    return "\n\n".join([*lines, *note, *(e.damage for e in entries if e.damage)])


def _history(
    metrics: Sequence[str],
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    entries: Sequence[Entry],
    gains: Collection[str],
) -> Table:
    values = [
        [words.number(_value(e.scores, m, gains)) if e.scores and m in e.scores.measures else "" for m in metrics]
        for e in entries
    ]
    return Table([*heads, *metrics], [[*row, *cells] for row, cells in zip(rows, values)], numbers=len(heads))


def _of_one_seed(scores: Scores) -> list[str]:
    """One adapter's scores are no recipe's: the next seed's differ, and a `drop` may show it."""
    if len(scores.seeds) > 1 or "finished" in scores.training:
        return []
    why = "later runs are held against this adapter and not its recipe, whose next seed may fail"
    return [f"seeds: one, so {why}; accept a run with --prism-seeds 3 or more"]


def _picked(origin: Mapping[str, Any]) -> list[str]:
    """What the store knows of the measurements that these scores could be picked from; nothing if it was one."""
    looks = origin.get("looks")
    if looks is None:
        return ["looks: unknown, because this store did not see the run; if it is one of several, measure with --fresh"]
    picked = (
        f"looks: {looks} measurements since the last acceptance; if this is the best of them, later runs fail by chance "
        f"(the best of 5: in up to 44 %), and `prism accept --fresh` measures with new seeds"
    )
    return [picked] if looks > 1 else []
