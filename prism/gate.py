"""Thresholds become verdicts here, and nowhere else. A metric never knows a threshold; the gate computes no metric."""

from __future__ import annotations

from dataclasses import replace

from prism.record import Record, Verdict
from prism.spec import Limit, Spec


def judge(spec: Spec, record: Record, unfit: str = "", required: bool = False) -> Record:
    """The record with a verdict on each of the spec's thresholds for its metric.

    Thresholds that were measured on other rows than those at hand are skipped with that reason, never applied. `unfit`
    says why the metric cannot be decided (no judge, or one that agrees too little); `required` makes that a failure.
    """
    limits = [limit for limit in spec.limits() if (limit.tier, limit.metric) == (record.tier, record.metric)]
    if unfit:
        state = "fails" if required else "skipped"
        return replace(record, verdicts=tuple(_verdict(limit, state, unfit) for limit in limits))
    measured_on = spec.data.measured_on
    if measured_on and not record.evaluation_digest.startswith(measured_on):
        reason = (
            f"measured on other rows ([data].measured_on = {measured_on}, at hand: {record.evaluation_digest[:8]}); "
            f"measure it again for these"
        )
        return replace(record, verdicts=tuple(_verdict(limit, "skipped", reason) for limit in limits))
    return replace(record, verdicts=tuple(decide(limit, record) for limit in limits))


def decide(limit: Limit, record: Record) -> Verdict:
    """Hold one threshold against one metric's record.

    A floor or ceiling reads the tuned value itself; a gain must reach its threshold *and* its paired 95 % interval must
    lie above 0. Where lower is better, a gain is a fall. `drop` compares with an accepted reference on the same samples.
    """
    if limit.key == "drop" and record.reference is None:
        return _verdict(limit, "skipped", f"no accepted reference for evaluation {record.evaluation_digest[:8]} yet")
    if record.n == 0:
        return _verdict(limit, "fails", f"none of {record.unscored} samples could be scored")
    tuned, gain = record.tuned.value, record.gain
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
    interval = f"95 % interval [{ends[0]:+.4f}, {ends[1]:+.4f}]"
    if gain < limit.value:
        return _verdict(limit, "fails", f"gain {gain:+.4f} < {limit.value:+g}, {interval}", record.gain.p)
    if ends[0] <= 0:
        reason = (
            f"gain {gain:+.4f} ≥ {limit.value:+g}, but its {interval} holds 0: n = {record.n} is too small to see it"
        )
        return _verdict(limit, "inconclusive", reason, record.gain.p)
    return _verdict(limit, "holds", f"gain {gain:+.4f} ≥ {limit.value:+g}, {interval} above 0", record.gain.p)


def _verdict(limit: Limit, state: str, reason: str, p: float | None = None) -> Verdict:
    return Verdict(limit.key, limit.value, state, reason, p, provisional=limit.provisional)  # type: ignore[arg-type]
