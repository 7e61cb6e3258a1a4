"""Format values: the same digits, signs, units and names in the terminal, in Markdown and in HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from prism.metrics import Metric
from prism.verdicts.record import Record, Score, State, Verdict

NOTHING = "–"
MARKS: dict[State, str] = {"holds": "✓", "fails": "✗", "inconclusive": "?", "not_comparable": "≠", "skipped": "–"}
UNDERPOWERED = 2  # n is too small if the smallest loss caught is more than twice the threshold
LIMITS = {"floor": "floor ≥ {}", "ceiling": "ceiling ≤ {}", "gain": "gain ≥ {}", "drop": "drop ≤ {}"}


def number(value: float | None) -> str:
    """Three significant digits: .734, 12.4, 1,234; never .734123, and never .000 for a value other than 0."""
    if value is None or not math.isfinite(value):
        return NOTHING
    size = abs(value)
    sign = "−" if value < 0 else ""
    if size <= 1:
        shown = f"{size:.3f}" if size == 0 or size >= 0.0005 else f"{size:.1g}"
        return sign + shown.removeprefix("0")
    digits = 2 if size < 10 else 1 if size < 100 else 0
    return f"{sign}{size:,.{digits}f}"


def value(number: float | None) -> float:
    """A number from JSON, where null means NaN."""
    return math.nan if number is None else number


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return f"+{number(value)}" if value is not None and value > 0 and math.isfinite(value) else number(value)


def difference(score: Score) -> str:
    """A difference with its 95 % interval: +.113 [+.090, +.136], or +.113 [unknown: 6 effective groups]."""
    return _with_interval(score, signed)


def loss(accepted: Mapping[str, Any]) -> str:
    """The loss in a `Record.reference`, with its interval."""
    return from_json(accepted["loss"])


def from_json(found: Mapping[str, Any]) -> str:
    """A difference with its interval as results.json has it."""
    low, high = map(value, found["ci"])
    return difference(Score(value(found["value"]), (low, high), rule=found.get("rule", "")))


def in_favour(score: Score, record: Record) -> Score:
    """A difference of the record as the gate reads it: positive is better, even if lower values are better."""
    if record.direction == "higher":
        return score
    return Score(-score.value, (-score.ci[1], -score.ci[0]), score.p, score.rule)


def before_and_after(record: Record) -> str:
    """Baseline → tuned; a cost is one measurement without a baseline."""
    if record.tier == "cost":
        return number(record.tuned.value)
    shown = number(record.baseline.value), number(record.tuned.value)
    if shown == (NOTHING, NOTHING):
        return NOTHING
    before = "" if record.against == "baseline" else f"{control_name(record.against)} "
    return before + " → ".join(shown)


def since_accepted(record: Record, accepted: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The accepted value and this run's; of a metric that is named after a gain, the gains."""
    if record.against == "baseline":
        return accepted["value"], record.tuned.value
    return accepted.get("gain"), record.gain.value


def gain(record: Record) -> str:
    return NOTHING if record.tier == "cost" else difference(in_favour(record.gain, record))


def metric_name(measured: Record | Metric) -> str:
    name = measured.metric if isinstance(measured, Record) else measured.name
    return f"{name} ↓" if measured.direction == "lower" else name


def threshold(verdict: Verdict) -> str:
    """The limit as written in the spec: floor ≥ .85."""
    shown = f"{verdict.threshold:+g}" if verdict.key == "gain" else f"{verdict.threshold:g}"
    shown = re.sub(r"^([+-]?)0\.", r"\1.", shown).replace("-", "−")
    return LIMITS.get(verdict.key, verdict.key + " {}").format(shown)


SPEAKS_OF = {"these adapters differ": "this adapter", "this recipe is worse": "the recipe"}


def caught(loss: float | None) -> str:
    """The smallest loss that is caught; without a finite one, no loss within the metric's range is."""
    return "no loss: n too small" if loss is None or not math.isfinite(loss) else number(loss)


def underpowered(verdict: Verdict) -> bool:
    """Whether a comparison that found no loss could only catch losses far larger than its threshold."""
    loss = verdict.detectable
    return verdict.state != "fails" and loss is not None and loss > UNDERPOWERED * verdict.threshold


def control_name(name: str) -> str:
    return name.replace("_", " ")


def state_name(state: str) -> str:
    return state.replace("_", " ")


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def score(score: Score) -> str:
    """A value with its 95 % interval: .734 [.697, .768]."""
    return _with_interval(score, number)


def _with_interval(score: Score, written: Callable[[float], str]) -> str:
    if not math.isfinite(score.value):
        return NOTHING
    if math.isnan(score.ci[0] + score.ci[1]):
        return f"{written(score.value)} [{score.rule or 'unknown'}]"
    return f"{written(score.value)} [{written(score.ci[0])}, {written(score.ci[1])}]"


def parameters(count: float | None) -> str:
    """A count of parameters: 7.87 M."""
    if count is None:
        return NOTHING
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:g}"


def share(part: float) -> str:
    """A share: 7.33 %."""
    return f"{100 * part:.3g} %"


def size(count: float | None) -> str:
    """A count of bytes: 15.7 MB."""
    if count is None:
        return NOTHING
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count:,} B"


def count(number: int, one: str, many: str | None = None) -> str:
    """A count with its noun: 1 sample, 1,200 samples."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def flat(table: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested table as (dotted key, value) pairs, without None and empty values."""
    if isinstance(table, dict):
        pairs = ((f"{prefix}.{key}" if prefix else str(key), value) for key, value in table.items())
        return [line for key, value in pairs for line in flat(value, key)]
    if isinstance(table, list | tuple):
        table = ", ".join(map(str, table))
    return [] if table is None or table == "" else [(prefix, str(table))]
