"""What a report says in sentences about one spec, read off its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prism.report import words
from prism.verdicts.record import Record, Result, Run, State, Verdict


@dataclass(frozen=True)
class Finding:
    """One line of a list: what it is about, and what is to be said of it."""

    state: State
    about: str
    text: str


def counts(run: Run) -> dict[str, int]:
    """How many verdicts are in each state, in the order of `words.MARKS`."""
    states = [verdict.state for result in run.results for record in result.records for verdict in record.verdicts]
    return {state: states.count(state) for state in words.MARKS if state in states}


def open_points(result: Result) -> list[Finding]:
    """Every verdict that does not hold, the gravest first; those of one reason in one line."""
    found: dict[tuple[State, str], list[str]] = {}
    for record in result.records:
        for verdict in record.verdicts:
            if verdict.state != "holds":
                about = f"{record.metric} {words.threshold(verdict)}"
                found.setdefault((verdict.state, verdict.reason + power(verdict)), []).append(about)
    order = list(words.MARKS)
    points = [Finding(state, ", ".join(about), text) for (state, text), about in found.items()]
    return sorted(points, key=lambda point: order.index(point.state))


def power(verdict: Verdict) -> str:
    """What a comparison with a reference could have seen."""
    if verdict.key != "drop" or verdict.detectable is None or not math.isfinite(verdict.detectable):
        return ""
    said = f"; it catches a loss of {words.number(verdict.detectable)} with 80 % power"
    if words.underpowered(verdict):
        said += ": n is too small to see this"
    return said


def provisional(result: Result) -> list[Finding]:
    """Thresholds that were set from a source and not yet measured."""
    return [
        Finding(verdict.state, f"{record.metric} {words.threshold(verdict)}", verdict.provisional)
        for record in result.records
        for verdict in record.verdicts
        if verdict.provisional
    ]


def beaten(result: Result) -> tuple[str, str] | None:
    """Has the adapter beaten the classical control? The answer, and the numbers behind it."""
    record = next((record for record in result.records if "classical" in record.controls), None)
    if record is None:
        return None
    control = record.controls["classical"]
    ahead = words.in_favour(control.ahead, record)
    rows = result.details.get("data", {}).get("training")
    trained = f", trained on the same {words.count(rows, 'row')}" if rows else ""
    text = (
        f"{record.metric} {words.number(record.tuned.value)} against {words.number(control.value)} of TF-IDF with "
        f"logistic regression{trained}; ahead by {words.difference(ahead)}"
    )
    behind = _behind(result, record)
    if ahead.ci[0] > 0:
        return "Yes", text + behind
    if ahead.ci[1] < 0:
        return "No", f"{text}: this adapter has not earned its GPU{behind}"
    return "Not shown", f"{text}, which holds 0{behind}" if ahead.ci[0] <= 0 <= ahead.ci[1] else text + behind


def _behind(result: Result, first: Record) -> str:
    """The other metrics by which the classical control is ahead, one that the first metric may hide."""
    lost = [
        f"{record.metric} by {words.difference(ahead)}"
        for record in result.records
        if record is not first and "classical" in record.controls
        for ahead in (words.in_favour(record.controls["classical"].ahead, record),)
        if ahead.value < 0
    ]
    return f"; behind on {', '.join(lost)}" if lost else ""


def commit(run: Run) -> str:
    """The commit that was run, and whether there was more than it."""
    if not run.provenance.get("commit"):
        return ""
    dirty = ", with uncommitted changes" if run.provenance.get("dirty") else ""
    return f"commit {str(run.provenance['commit'])[:8]}{dirty}"


def calibrated(result: Result) -> str:
    """How far the probability of the likeliest label is from how often it is right, and of which model that is known."""
    found = result.details.get("calibration") or {}
    said = [
        f"{name.capitalize()}: {words.number(part['probability'])} sure on average, right {words.number(part['right'])}; "
        f"expected calibration error {words.number(part['ece'])}."
        for name, part in found.items()
    ]
    if found and "tuned" not in found:
        said.append("Not measured for the tuned model.")
    return " ".join([*said, "Dashed: as sure as right."]) if said else ""


def reference(result: Result) -> str:
    """What the run was held against, and which question that answers."""
    told = result.details.get("reference")
    if not told:
        return ""
    origin = told["origin"]
    commit = f", commit {origin['commit'][:8]}" if origin.get("commit") else ""
    mine = max((len(record.seeds) for record in result.records), default=0)
    asked = {
        "these adapters differ": "Asked: do these two adapters differ on other samples? Not: what would other seeds give?",
        "this recipe is worse": "Asked: is this recipe worse, on other samples and with other seeds?",
    }[told["question"]]
    same = "" if told["differences"] else " The training sides do not differ."
    seeds = words.count(len(told["seeds"]), "seed")
    if max(len(told["seeds"]), mine) > 1:
        same += " A sample is worse or better by its mean over the seeds."
    return f"Against {told['file']} ({origin.get('date', 'no date')}{commit}), {seeds} and here {mine}. {asked}{same}"


def notes(result: Result) -> list[str]:
    """How the numbers are to be read: what the intervals speak of, what was left out, what did not come out the same."""
    return [
        note
        for note in (_seeds(result), _unscored(result), _cut(result), _leaks(result), *_judge(result), *_parity(result))
        if note
    ]


def _judge(result: Result) -> list[str]:
    """Who judged, what that judge is worth, and what it left unscored."""
    found = result.details.get("judge") or {}
    if found.get("not_judged"):
        gated = any(record.tier == "tier3" and record.verdicts for record in result.records)
        return [] if gated else ["Tier 3 was not judged."]  # a gated metric's verdict says why
    if not found.get("judge"):
        return []
    lines = [f"Tier 3 was judged by {found['judge']}."]
    lines += [f"{metric}: {sentence.rstrip('.')}." for metric, sentence in found["calibration"].items()]
    for metric, n in found.get("empty", {}).items():
        lines.append(f"Empty answers, graded 0 without asking for {metric}: {n:,}.")
    for metric, reasons in found["unscored"].items():
        if reasons:
            counted = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            lines.append(f"Unscored by the judge for {metric}: {counted}.")
    return lines


def _seeds(result: Result) -> str:
    """Which question was answered: about these weights, or about the recipe."""
    names = next((list(record.seeds) for record in result.records if record.seeds), [])
    seeds, first = len(names), next(iter(names), "")
    if seeds > 1:
        return (
            f"Mean of {seeds} training seeds; intervals include the spread between them, so they speak of the recipe. "
            f"Samples, and the tables by class, type, pattern and term, are of the first seed, {first}."
        )
    return "One training seed: the intervals speak of this adapter, not of the recipe." if seeds else ""


def _unscored(result: Result) -> str:
    found = [record for record in result.records if record.unscored]
    shown = ", ".join(f"{record.metric} {record.unscored:,} of {record.n + record.unscored:,}" for record in found)
    return f"Unscored, counted apart: {shown}." if shown else ""


def _cut(result: Result) -> str:
    n = ((result.details.get("answers") or {}).get("tuned") or {}).get("cut")
    return f"The context of {words.count(n, 'question')} was cut before a part of the gold answer." if n else ""


def _leaks(result: Result) -> str:
    """How many held-out samples have a twin among the training rows, and what the first score is without them."""
    found = result.details.get("leaks")
    if not found:
        return ""
    text = f"Leaks: {found['exact']:,} of {found['held_out']:,} held-out samples have an exact twin among the training rows"
    text += f" and {found['near']:,} more a near one"
    whole = {record.metric: record.tuned.value for record in result.records}
    if found["clean"]:
        first = found["clean"][0]
        tuned = words.number(first["tuned"]["value"]), words.number(whole.get(first["metric"]))
        text += f"; without these {first['metric']} is {tuned[0]}, with them {tuned[1]}"
    elif found["exact"] or found["near"]:
        text += "; no sample is left without one"
    if found["dedupe"]:
        rows = words.count(found["removed"], "training row")
        text += f"; dedupe = {found['dedupe']} had removed {rows} before"
    return text + "."


def _parity(result: Result) -> list[str]:
    """Adapters that answer differently once they are reloaded, asked one by one, or merged."""
    return [
        f"Parity: with {name.replace('_', ' ')}, the adapter of seed {seed} answers differently "
        f"(a logit moved by {moved:.2g}, tolerance {check.get('tolerance', 0):g})."
        for seed, check in (result.details.get("parity") or {}).items()
        for name, moved in ((check or {}).get("differences") or {}).items()
        if moved is not None and check.get("holds", {}).get(name) is False
    ]


def missing(sample: dict[str, Any]) -> str:
    """The domain's terms that the reference names and an answer does not, baseline and tuned."""
    lacking = sample.get("missing") or {}
    return "; ".join(f"missing in {name}: {', '.join(terms)}" for name, terms in lacking.items() if terms)


def sizes(result: Result) -> list[str]:
    """What was trained and measured, in short phrases."""
    data = result.details.get("data", {})
    engine = result.details.get("engine", {})
    record = next((record for record in result.records if record.tier != "cost"), None)
    said = [str(data["source"])] if "source" in data else []
    if "training" in data:
        said.append(words.count(data["training"], "training row"))
    if record:
        said.append(f"n = {record.n:,}" + (f" in {record.groups:,} groups" if record.groups != record.n else ""))
    elif "held_out" in data:
        said.append(f"{data['held_out']:,} held out")
    said.append(" ".join(str(engine[key]) for key in ("library", "device", "dtype") if engine.get(key)))
    return [phrase for phrase in (*said, f"profile {result.profile}") if phrase]


def by_phase(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each phase, in the order of the run."""
    phases: dict[str, list[Result]] = {}
    for result in results:
        phases.setdefault(result.phase, []).append(result)
    return phases
