"""Text for the command line: what an acceptance changes, how two runs compare, and a spec's accepted runs over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prism.report import words
from prism.untrusted import visible
from prism.verdicts.accepted import Acceptance
from prism.verdicts.compare import Comparison, differences, first_flipped
from prism.verdicts.history import Entry
from prism.verdicts.scores import Scores


def acceptance_summary(acceptance: Acceptance) -> str:
    """What accepting a run changes: each metric's old and new value, and how the training sides differ."""
    from tabulate import tabulate

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
    rows = []
    for name in dict.fromkeys([*(old.measures if old else ()), *new.measures]):
        before, after = (side.measures[name].value if side and name in side.measures else None for side in (old, new))
        change = words.signed(after - before) if before is not None and after is not None else ""
        rows.append([name, words.number(before), words.number(after), change])
    lines.append(tabulate(rows, ["metric", "old", "new", "change"], tablefmt="simple", disable_numparse=True))
    lines += [f"{key}: {before} → {after}" for key, before, after in differences(old, new)] if old else []
    return "\n".join(lines)


DECISIONS = {"fails": "WORSE", "holds": "not worse", "inconclusive": "undecided"}


def comparison_table(new: Scores, comparisons: Sequence[Comparison], drop: float) -> str:
    """Each metric of two runs, with its loss, the p of no more than `drop`, the decision and how many samples flipped."""
    from tabulate import tabulate

    first = comparisons[0]
    rows = []
    for found in comparisons:
        interval = f"{words.signed(found.loss.value)} [{words.signed(found.loss.low)}, {words.signed(found.loss.high)}]"
        rows.append(
            [
                words.metric_name(found.metric),
                words.number(found.before),
                words.number(found.after),
                interval,
                f"{found.exceeds(drop):.2g}",
                words.caught(found.detectable(drop)),
                f"{len(found.worse):,}" if found.metric.sample != "nothing" else "",
                f"{len(found.better):,}" if found.metric.sample != "nothing" else "",
                DECISIONS[found.state(drop)],
                found.rule,
            ]
        )
    headers = [
        "metric",
        "A",
        "B",
        f"loss [{100 * first.level:.3g} %]",
        "p",
        "caught from",
        "worse",
        "better",
        "",
        "test",
    ]
    title = (
        f"{new.id}, evaluation {new.evaluation_digest[:8]}, n = {first.n:,}: {first.question}? "
        f"({words.count(first.seeds[0], 'seed')} against {first.seeds[1]}; it speaks of {words.SPEAKS_OF[first.question]})"
    )
    table = tabulate(rows, headers, tablefmt="simple", disable_numparse=True)
    note = (
        f"WORSE: the loss is shown to exceed {drop:g}, p ≤ {first.alpha:.2g}; not worse: it is shown not to, p ≤ .05; "
        f"undecided: neither; p: of a loss of at most {drop:g}; caught from: with 80 % power"
    )
    return f"{title}\n\n{table}\n\n{note}"


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


def history_table(entries: Sequence[Entry]) -> str:
    """The accepted runs of one spec, oldest first."""
    from tabulate import tabulate

    metrics = list(dict.fromkeys(m for e in entries if e.scores for m in e.scores.measures))
    rows = []
    for entry in entries:
        head = [entry.commit or "not committed", entry.date, entry.file.stem.partition("@")[2]]
        if entry.scores is None:
            rows.append([*head, "", entry.damage])
            continue
        measures = entry.scores.measures
        values = [words.number(measures[m].value) if m in measures else "" for m in metrics]
        rows.append([*head, str(len(entry.scores.seeds)), *values])
    return tabulate(rows, ["commit", "date", "evaluation", "seeds", *metrics], tablefmt="simple", disable_numparse=True)


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
