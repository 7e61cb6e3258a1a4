"""The sentences of a report about one spec, made from its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prism.report import words
from prism.verdicts.record import Record, Result, Run, State, Verdict


@dataclass(frozen=True)
class Finding:
    """One line of a list: its subject and its text."""

    state: State
    about: str
    text: str


def counts(run: Run) -> dict[str, int]:
    """The number of verdicts in each state, in the order of `words.MARKS`."""
    states = [verdict.state for result in run.results for record in result.records for verdict in record.verdicts]
    return {state: states.count(state) for state in words.MARKS if state in states}


def gated_first(records: Sequence[Record]) -> list[Record]:
    """The records that decide come before those that are only measured."""
    return sorted(records, key=lambda record: not record.verdicts)


def only_measured(result: Result) -> str:
    """What stands in place of verdicts for a spec without thresholds."""
    return "" if any(record.verdicts for record in result.records) else "Measured, nothing to decide: it has no [gate]."


def open_points(result: Result) -> list[Finding]:
    """Every verdict that does not hold, most severe first; verdicts with the same reason share a line."""
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
    """The smallest loss that a comparison with an accepted run could detect."""
    if verdict.key != "drop" or verdict.detectable is None or not math.isfinite(verdict.detectable):
        return ""
    text = f"; it catches a loss of {words.number(verdict.detectable)} with 80 % power"
    if words.underpowered(verdict):
        text += ": n is too small for this threshold"
    return text


def provisional(result: Result) -> list[Finding]:
    """Thresholds that come from a source and were not measured yet."""
    return [
        Finding(verdict.state, f"{record.metric} {words.threshold(verdict)}", verdict.provisional)
        for record in result.records
        for verdict in record.verdicts
        if verdict.provisional
    ]


def beaten(result: Result) -> tuple[str, str] | None:
    """Whether the adapter beats the classical control: the answer and its numbers."""
    record = next((record for record in result.records if "classical" in record.controls), None)
    if record is None:
        return None
    control = record.controls["classical"]
    ahead = words.in_favour(control.ahead, record)
    rows = result.details.get("data", {}).get("training")
    claim = "the split's" if "adapter" in result.details else "the same"  # what a finished one saw is its owner's claim
    trained = f", trained on {claim} {words.count(rows, 'row')}" if rows else ""
    text = (
        f"{record.metric} {words.number(record.tuned.value)} against {words.number(control.value)} of TF-IDF with "
        f"logistic regression{trained}; ahead by {words.difference(ahead)}"
    )
    behind = _behind(result, record)
    if ahead.ci[0] > 0:
        return "Yes", text + behind
    if ahead.ci[1] < 0:
        return "No", f"{text}: this adapter is not worth its GPU{behind}"
    return "Not shown", f"{text}, which includes 0{behind}" if ahead.ci[0] <= 0 <= ahead.ci[1] else text + behind


def _intervals(result: Result) -> str:
    """By which rule each interval was made, the gains' of one rule together."""
    found: dict[str, list[str]] = {}
    for record in result.records:
        if record.gain.rule:
            found.setdefault(record.gain.rule, []).append(record.metric)
    shown = "; ".join(f"{rule} ({', '.join(names)})" for rule, names in found.items())
    return f"Intervals of gains: {shown}." if shown else ""


def _behind(result: Result, first: Record) -> str:
    """The other metrics on which the classical control is ahead: the first metric alone may hide them."""
    lost = [
        f"{record.metric} by {words.difference(ahead)}"
        for record in result.records
        if record is not first and "classical" in record.controls
        for ahead in (words.in_favour(record.controls["classical"].ahead, record),)
        if ahead.value < 0
    ]
    return f"; behind on {', '.join(lost)}" if lost else ""


def commit(run: Run) -> str:
    """The commit of the run, and whether the checkout had uncommitted changes."""
    if not run.provenance.get("commit"):
        return ""
    known = run.provenance.get("dirty", False)
    dirty = ", with uncommitted changes" if known else ", of an unknown working tree" if known is None else ""
    return f"commit {str(run.provenance['commit'])[:8]}{dirty}"


def calibration(result: Result) -> str:
    """The mean probability of the likeliest label against its accuracy, for each measured model."""
    found = result.details.get("calibration") or {}
    sentences = [
        f"{name.capitalize()}: mean probability {words.number(part['probability'])}, "
        f"accuracy {words.number(part['right'])}, expected calibration error {words.number(part['ece'])}."
        for name, part in found.items()
    ]
    if found and "tuned" not in found:
        sentences.append("Not measured for the tuned model.")
    return " ".join([*sentences, "Dashed: perfect calibration."]) if sentences else ""


def against_accepted(result: Result) -> str:
    """Which accepted run this run was compared with, and which question the comparison answers."""
    accepted = result.details.get("reference")
    if not accepted:
        return ""
    origin = accepted["origin"]
    commit = f", commit {origin['commit'][:8]}" if origin.get("commit") else ""
    here = max((len(record.seeds) for record in result.records), default=0)
    question = {
        "these adapters differ": "Question: do these adapters differ on other samples? Not: what do other seeds give?",
        "this recipe is worse": "Question: is this recipe worse, on other samples and with other seeds?",
    }[accepted["question"]]
    notes = "" if accepted["differences"] else " The training sides do not differ."
    seeds = words.count(len(accepted["seeds"]), "adapter" if "adapter" in result.details else "seed")
    if max(len(accepted["seeds"]), here) > 1:
        notes += " A sample is worse or better by its mean over the seeds."
    if (looks := origin.get("looks") or 1) > 1:
        notes += f" It could be picked among {looks} measurements, so that later runs fail more often by chance."
    if comparison := accepted.get("comparison"):
        notes += f" Comparison {comparison} with it; its false alarms are shared by all of them."
    source = f"{accepted['file']} ({origin.get('date', 'no date')}{commit})"
    return f"Against {source}, {seeds} and here {here}. {question}{notes}"


def notes(result: Result) -> list[str]:
    """How to read the numbers: what the intervals describe, what was left out, which parity checks failed."""
    return [
        note
        for note in (
            _seeds(result),
            _intervals(result),
            *_finished(result),
            _unscored(result),
            _unread(result),
            _cut(result),
            _leaks(result),
            *_judge(result),
            *_parity(result),
        )
        if note
    ]


def _judge(result: Result) -> list[str]:
    """Which model judged, how well it is calibrated, and what it left unscored."""
    found = result.details.get("judge") or {}
    if found.get("not_judged"):
        gated = any(record.tier == "tier3" and record.verdicts for record in result.records)
        return [] if gated else ["Tier 3 was not judged."]  # otherwise the verdict of the gated metric gives the reason
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
    """Whether the intervals describe these weights or the recipe."""
    if finished := result.details.get("adapter"):
        return f"PRISM did not train the adapter {finished['source']}: the intervals describe it, not its recipe."
    seeds, first = len(result.seeds), next(iter(result.seeds), "")
    if seeds > 1:
        return (
            f"Mean of {seeds} training seeds; intervals include the spread between them, so they describe the recipe. "
            f"Samples, and the tables by class, type, pattern and term, are those of the first seed, {first}."
        )
    return "One training seed: the intervals describe this adapter, not the recipe." if seeds else ""


def _finished(result: Result) -> list[str]:
    """What is known of an adapter that PRISM did not train, and what is not."""
    finished = result.details.get("adapter")
    if not finished:
        return []
    lines = ["Its training rows are unknown, so nothing was checked for leaks, or compared with what learns from rows."]
    if rows := result.details["data"].get("training"):
        lines = [f"That it was trained on the {words.count(rows, 'training row')} of the split is the spec's claim."]
    if own := finished["loading"].get("asked_with"):
        lines.append(f"The tuned answers were asked for with the adapter's own {own}, which differs from the base's.")
    if finished["unused"]:
        lines.append(f"Not used, as nothing was trained: {' and '.join(finished['unused'])}.")
    return lines


def _unscored(result: Result) -> str:
    found = [record for record in result.records if record.unscored]
    shown = ", ".join(f"{record.metric} {record.unscored:,} of {record.n + record.unscored:,}" for record in found)
    return f"Unscored, counted separately: {shown}." if shown else ""


def _unread(result: Result) -> str:
    n = ((result.details.get("answers") or {}).get("tuned") or {}).get("unread")
    if not n:
        return ""
    return (
        f"ROUGE, content gain and keyword coverage see no words in {words.count(n, 'reference')}: they read a-z and "
        f"digits only, so these samples are unscored; gate a judge or semantic similarity instead."
    )


def _cut(result: Result) -> str:
    n = ((result.details.get("answers") or {}).get("tuned") or {}).get("cut")
    return f"The context of {words.count(n, 'question')} was cut before part of the gold answer." if n else ""


def _leaks(result: Result) -> str:
    """How many held-out samples have their like among the training rows, and the first score without them."""
    found = result.details.get("leaks")
    if not found:
        return ""
    text = f"Leaks: {found['exact']:,} of {found['held_out']:,} held-out samples have an exact twin among the training rows"
    text += f" and {found['near']:,} more a near one"
    if found["kinds"]:
        text += f" ({', '.join(f'{n:,} {kind}' for kind, n in found['kinds'].items())})"
    if found["answers_only"]:
        text += f"; of {found['answers_only']:,} more, the answer stands in a training answer"
    whole = {record.metric: record.tuned.value for record in result.records}
    if found["clean"]:
        first = found["clean"][0]
        tuned = words.number(first["tuned"]["value"]), words.number(whole.get(first["metric"]))
        text += f"; without these {first['metric']} is {tuned[0]}, with them {tuned[1]}"
    elif found["exact"] or found["near"] or found["answers_only"]:
        text += "; that is every held-out sample"
    if found["contexts"]:
        asking = words.count(found["contexts"], "other sample asks", "other samples ask")
        text += f"; {asking} about the context of a training row, which is no leak"
    if found["dedupe"]:
        rows = words.count(found["removed"], "training row")
        text += f"; dedupe = {found['dedupe']} removed {rows} before this check"
    return text + "."


def _parity(result: Result) -> list[str]:
    """Adapters that answer differently if they are asked one by one, or merged, and what follows."""
    finished = "adapter" in result.details
    return [
        f"Parity{'' if finished else f' of seed {seed}'}: {what}, {_differing(check, name)}, so {consequence}."
        for seed, check in (result.details.get("parity") or {}).items()
        for name, (what, consequence) in MOVED.items()
        if (check or {}).get("holds", {}).get(name) is False
    ]


MOVED = {
    "batch_of_one": ("asked one at a time", "single answers hang on the size of batches"),
    "merge": ("merged", "the adapter answered unmerged"),
}


def _differing(check: dict[str, Any], name: str) -> str:
    if (share := check.get("shares", {}).get(name)) is not None:
        return f"{share:.1%} of {check['asked']} answers differ"
    return f"a logit moves by {check['differences'][name]:.2g} (tolerance {check['tolerance']:g})"


def missing(sample: dict[str, Any]) -> str:
    """Domain terms that the reference names and the baseline or tuned answer lacks."""
    lacking = sample.get("missing") or {}
    return "; ".join(f"missing in {name}: {', '.join(terms)}" for name, terms in lacking.items() if terms)


def sizes(result: Result) -> list[str]:
    """What was trained and measured, in short phrases."""
    data = result.details.get("data", {})
    engine = result.details.get("engine", {})
    record = next((record for record in result.records if record.tier != "cost"), None)
    phrases = [str(data["source"])] if "source" in data else []
    if "training" in data:
        phrases.append(words.count(data["training"], "training row"))
    if record:
        phrases.append(f"n = {record.n:,}" + (f" in {record.groups:,} groups" if record.groups != record.n else ""))
    elif "held_out" in data:
        phrases.append(f"{data['held_out']:,} held out")
    phrases.append(" ".join(str(engine[key]) for key in ("library", "device", "dtype") if engine.get(key)))
    return [phrase for phrase in (*phrases, f"profile {result.profile}") if phrase]


def by_phase(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each phase, in the order of the run."""
    phases: dict[str, list[Result]] = {}
    for result in results:
        phases.setdefault(result.phase, []).append(result)
    return phases
