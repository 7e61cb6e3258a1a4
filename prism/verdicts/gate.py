"""Decide verdicts from thresholds, here and nowhere else: metrics know no thresholds, the gate computes no metric."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from prism.spec import Limit, Spec
from prism.verdicts.compare import HOLDS, Comparison
from prism.verdicts.drops import Against
from prism.verdicts.record import Record, Verdict

MAX_UNSCORED = 0.05  # share of samples that a judge may leave ungraded; with more, a verdict would be a guess


def decide_all(
    spec: Spec,
    records: Sequence[Record],
    against: Against | None = None,
    unfit: Mapping[str, str] | None = None,
    required: Collection[str] = (),
    base: str = "",
) -> list[Record]:
    """Return the records, each with a verdict on every threshold of the spec for its metric.

    A threshold that was measured with another evaluation is skipped with that reason, never applied. `unfit` is why
    a metric cannot be decided (no judge, or one that agrees too little); its thresholds fail if its tier is `required`.
    `against` is the comparison with the accepted run, which a `drop` reads. With another `base` (its digest) than the
    thresholds were measured with, they are provisional.
    """
    other = spec.model.measured_with
    other_base = (
        f"measured with other weights ({other}, these: {base[:8]})" if other and base[:8] != other[:8] else None
    )
    by_metric = {(record.tier, record.metric): record for record in records}
    verdicts: dict[tuple[str, str], list[Verdict]] = {}
    for limit in spec.limits():
        limit = limit.model_copy(update={"provisional": limit.provisional or other_base})
        key = limit.tier, limit.metric
        reason = (unfit or {}).get(limit.metric, "")
        if reason:
            verdict = _verdict(limit, "fails" if limit.tier in required else "skipped", reason)
        elif reason := _why_not_applicable(spec, by_metric[key]):
            verdict = _verdict(limit, "skipped", reason)
        else:
            verdict = decide(limit, by_metric[key], against)
        verdicts.setdefault(key, []).append(verdict)
    return [replace(record, verdicts=tuple(verdicts.get(key, ()))) for key, record in by_metric.items()]


def _why_not_applicable(spec: Spec, record: Record) -> str:
    """Why the thresholds do not apply to this evaluation; empty if they do."""
    measured_on = spec.data.measured_on
    if not measured_on or record.evaluation_digest.startswith(measured_on):
        return ""
    return (
        f"measured with another evaluation (rows, prompts, reading, metrics or [generate]): [data].measured_on = "
        f"{measured_on}, now {record.evaluation_digest[:8]}; measure it again"
    )


def decide(limit: Limit, record: Record, against: Against | None = None) -> Verdict:
    """Decide one threshold from its metric's record.

    A floor or ceiling reads the tuned value itself; a gain must reach its threshold *and* its paired 95 % interval must
    be above 0: where that is unknown, or not above 0, the gain is inconclusive. If lower is better, a gain is a
    decrease. A `drop` fails if the loss against the accepted run, on the same samples, is shown to exceed it, and holds
    if it is shown not to. A value that is not a number fails.
    """
    if limit.key == "drop" and against is None:
        reason = f"no accepted run for evaluation {record.evaluation_digest[:8]}; `prism accept` a run to make one"
        return _verdict(limit, "skipped", reason)
    if record.tier == "cost" and math.isnan(record.tuned.value):
        reason = (
            f"{record.metric} is not known here: the GPU's rate, or a training or baseline of this spec, is missing"
        )
        return _verdict(limit, "skipped", reason)
    if record.n == 0:
        return _verdict(limit, "fails", f"none of {record.unscored} samples could be scored")
    if record.tier == "tier3" and record.unscored > MAX_UNSCORED * (record.n + record.unscored):
        reason = (
            f"{record.unscored:,} of {record.n + record.unscored:,} samples are unscored, over {MAX_UNSCORED:.0%}, and "
            f"may differ from the others; see the reasons in the report, and run again to ask again"
        )
        return _verdict(limit, "inconclusive", reason)
    if against and limit.key == "drop":
        return _drop(limit, record, against)
    tuned, gain = record.tuned.value, record.gain
    broken = not math.isfinite(gain.value) or (not math.isfinite(sum(gain.ci)) and not gain.rule)
    if not math.isfinite(tuned) or (limit.key == "gain" and broken):
        return _verdict(limit, "fails", f"{record.metric} is not a number; fix the metric or the answers that it reads")
    if limit.key == "floor":
        holds = tuned >= limit.value
        return _verdict(limit, "holds" if holds else "fails", f"{tuned:.4f} {'≥' if holds else '<'} {limit.value:g}")
    if limit.key == "ceiling":
        holds = tuned <= limit.value
        return _verdict(limit, "holds" if holds else "fails", f"{tuned:.4f} {'≤' if holds else '>'} {limit.value:g}")
    if limit.key == "gain":
        return _gain(limit, record, gain.value if record.direction == "higher" else -gain.value)
    raise AssertionError(limit.key)


def _gain(limit: Limit, record: Record, gain: float) -> Verdict:
    ends = record.gain.ci if record.direction == "higher" else (-record.gain.ci[1], -record.gain.ci[0])
    known = not math.isnan(ends[0] + ends[1])
    interval = f"95 % interval [{ends[0]:+.4f}, {ends[1]:+.4f}]" if known else f"95 % interval {record.gain.rule}"
    if gain < limit.value:
        return _verdict(limit, "fails", f"gain {gain:+.4f} < {limit.value:+g}, {interval}", record.gain.p)
    if not known:
        reason = f"gain {gain:+.4f} ≥ {limit.value:+g}, but its {interval}: hold out rows of more groups"
        return _verdict(limit, "inconclusive", reason)
    if ends[0] <= 0:
        reason = f"gain {gain:+.4f} ≥ {limit.value:+g}, but its {interval} includes 0: n = {record.n} is too small"
        return _verdict(limit, "inconclusive", reason, record.gain.p)
    return _verdict(limit, "holds", f"gain {gain:+.4f} ≥ {limit.value:+g}, {interval} above 0", record.gain.p)


def _drop(limit: Limit, record: Record, against: Against) -> Verdict:
    if against.fault:
        return _verdict(limit, "fails", against.fault)
    comparison = against.comparisons.get(record.metric)
    if comparison is None:
        reason = against.without.get(record.metric, "it has no statistics to compare")
        return _verdict(limit, "not_comparable", reason)
    loss = comparison.loss
    if not math.isfinite(loss.value) or math.isnan(loss.p):
        reason = f"the loss of {record.metric} is not a number; fix the metric or the answers that it reads"
        return _verdict(limit, "fails", reason)
    return _decided(limit, comparison)


def _decided(limit: Limit, comparison: Comparison) -> Verdict:
    """A drop's verdict from its comparison; `p` is that of "the loss is at most the threshold", unless it holds."""
    loss, limited, state = comparison.loss, f"{limit.value:g}", comparison.state(limit.value)
    exceeds, within = comparison.exceeds(limit.value), comparison.within(limit.value)
    finding, rule = f"{comparison.question}? loss {loss.value:+.4f}", comparison.rule
    detectable = comparison.detectable(limit.value)
    if comparison.same:
        reason = f"{finding}: {rule}"
    elif state == "fails":
        interval = f", {100 * comparison.level:.3g} % interval [{loss.low:+.4f}, {loss.high:+.4f}]"
        shown = interval if math.isfinite(loss.low + loss.high) else ""
        reason = f"{finding} is shown to exceed {limited}, p = {exceeds:.2g} ≤ {comparison.alpha:.2g}{shown} ({rule})"
    elif state == "holds":
        reason = f"{finding} is shown not to exceed {limited}, p = {within:.2g} ≤ {HOLDS:g} ({rule})"
    elif not comparison.can_fail(limit.value):
        reason = (
            f"{finding}, but no loss can be shown: the smallest p that these samples allow is "
            f"{comparison.test.least(limit.value):.2g} > {comparison.alpha:.2g} ({rule}); hold out rows of more groups"
        )
    else:
        reason = (
            f"{finding} is neither shown to exceed {limited}, p = {exceeds:.2g} > {comparison.alpha:.2g}, nor shown not "
            f"to, p = {within:.2g} > {HOLDS:g} ({rule})"
        )
    if math.isinf(detectable) and not comparison.same and state != "fails":
        reason += "; n is too small to see any loss with 80 % power"
    p = within if state == "holds" else exceeds
    return replace(_verdict(limit, state, reason, p), detectable=detectable)


def _verdict(limit: Limit, state: str, reason: str, p: float | None = None) -> Verdict:
    return Verdict(limit.key, limit.value, state, reason, p, provisional=limit.provisional)  # type: ignore[arg-type]
