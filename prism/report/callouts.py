"""What stands under the headline: what got worse or stays poor, and whether answers that know nothing pass the gate.

The findings are those of `prism.verdicts.callouts` and `prism.verdicts.contenders`, in the details of each result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prism.report import words
from prism.report.tables import Table
from prism.verdicts.callouts import SHOWN
from prism.verdicts.contenders import nearest_to_gate, passing
from prism.verdicts.record import Result, Run


def of_run(run: Run) -> list[str]:
    """The worst findings of the run, each with its spec, at most SHOWN."""
    found = [(callout, result.id) for result in run.results for callout in result.details.get("callouts", ())]
    found.sort(key=lambda pair: -pair[0]["size"])
    return [f"{name}: {_sentence(callout)}" for callout, name in found[:SHOWN]]


def of_spec(result: Result, run: Run) -> list[str]:
    """The findings of one spec among several; those of the only one stand under the headline."""
    return [_sentence(callout) for callout in result.details.get("callouts", ())] if len(run.results) > 1 else []


def _sentence(found: Mapping[str, Any]) -> str:
    about, n, other = found["about"].replace("_", " "), found["n"], words.control_name(found["other"] or "baseline")
    numbers = f"{words.number(found['before'])} → {words.number(found['after'])}"
    counts = f"{found['before']:,.0f} → {found['after']:,.0f} of {n:,} answers"
    against = f"{words.number(found['after'])} against {words.number(found['before'])}"
    match found["kind"]:
        case "metric" if found["other"]:
            return f"{found['about']} is below {other}: {against}{_interval(found)}"
        case "metric":
            return f"{found['about']} is worse than the baseline: {numbers}{_interval(found)}"
        case "pattern rose":
            return f"more answers fail as “{about}”: {counts}"
        case "pattern stays":
            return f"most answers fail as “{about}”: {counts}"
        case "recall fell":
            return f"the recall of {found['about']} fell: {numbers} (n = {n:,})"
        case "recall low":
            return f"most of {found['about']} is missed: recall {numbers} (n = {n:,})"
        case "cut off":
            return f"more answers are cut off at max_new_tokens: {counts}"
        case "classical":
            return f"not shown to beat the classical control by {found['about']}: {against}{_interval(found)}"
        case _:
            return f"{other}, which knows nothing, is ahead by {found['about']}: this adapter {against}"


def _interval(found: Mapping[str, Any]) -> str:
    """The 95 % interval of how far the adapter is ahead."""
    low, high = (words.signed(end) for end in found["ends"])
    return f", ahead by [{low}, {high}]"


def contenders(result: Result) -> tuple[bool, str] | None:
    """Whether a know-nothing contender passes this gate, and the sentence; None if no threshold is one that it can meet."""
    found = result.details.get("contenders") or {}
    first = nearest_to_gate(found)
    if first is None:
        return None
    passed = passing(found)
    if passed:
        named = ", ".join(words.control_name(name) for name in passed)
        return True, f"This gate asks for no knowledge: {named} would pass it"
    name, n = words.control_name(first["name"]), len(first["passes"])
    return False, f"No know-nothing contender passes this gate; the nearest: {name}, {n} of {len(found['thresholds'])}"


def contenders_table(result: Result) -> Table | None:
    """Each contender's value by each gated metric beside the adapter's, and how many thresholds it would pass."""
    found = result.details.get("contenders") or {}
    gated = [r for r in result.records if r.verdicts and r.tier in ("tier1", "tier2") and r.against == "baseline"]
    if not found.get("thresholds"):
        return None
    whole = len(found["thresholds"])
    rows = [
        [
            words.control_name(contender["name"]),
            *(words.number(contender["values"].get(record.metric)) for record in gated),
            f"{len(contender['passes'])} of {whole}",
        ]
        for contender in found["contenders"]
    ]
    adapter = ["this adapter", *(words.number(record.tuned.value) for record in gated), ""]
    return Table(["answers", *map(words.metric_name, gated), "would pass"], [adapter, *rows])
