"""A judge's grades on their way into a run: as metrics, with what the judge is worth, and why it may decide nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from prism.judge import Case, Definition, Grade, calibration
from prism.judge.asking import NOT_CONFIGURED, Choice
from prism.judge.grading import EMPTY, estimate, grade, unscored_reasons
from prism.judge.spending import Spending
from prism.metrics import Metric, judged
from prism.progress import Progress
from prism.rows import Example
from prism.spec import Spec
from prism.store import Store, digest

Judge = tuple[Choice, Spending]


def definitions(spec: Spec, judged: Sequence[Definition]) -> list[Definition]:
    """What a task has graded (`Task.judged`), the first by the spec's own evaluation steps if it gives some."""
    found = list(judged)
    if spec.judge.evaluation_steps and found:
        found[0] = replace(found[0], steps=tuple(spec.judge.evaluation_steps))
    return found


def cases(held_out: Sequence[Example], answers: Sequence[Sequence[str]]) -> list[Case]:
    """One case for each example and set of answers: the baseline's first, then each seed's."""
    return [
        Case(f"{example.id}/{n}", example.question, answer, example.reference, example.facts.get("context", ""))
        for n, said in enumerate(answers)
        for example, answer in zip(held_out, said)
    ]


def grade_all(
    definitions: Sequence[Definition], cases: Sequence[Case], judge: Judge, store: Store, screen: Progress, spec: str
) -> dict[Definition, list[Grade]]:
    """The judge's grade of each case by each definition. Says on `screen` what it is likely to cost, then the progress."""
    choice, spending = judge
    found = {}
    for definition in definitions:
        ahead = estimate(choice, definition, cases, store).sentence(choice.price)
        screen.say(f"{spec}: {definition.metric}: {ahead}")
        with screen.progress(f"{spec}: {definition.metric} by {choice.name}", len(cases)) as advance:
            found[definition] = grade(choice, definition, cases, store, spending=spending, advance=advance)
    return found


def metric(
    definition: Definition, grades: Sequence[Grade], held_out: Sequence[Example], answers: Sequence[Sequence[str]]
) -> Metric:
    """The metric of a judge's grades, which lie in the order of the answers: baseline first, then seed by seed."""
    asked = [(example.id, answer) for said in answers for example, answer in zip(held_out, said)]
    return judged(definition.metric, {key: grade.score for key, grade in zip(asked, grades)})


def judges(grades: Mapping[Definition, Sequence[Grade]], judge: Judge | None) -> dict[str, str]:
    """Who graded each metric, and by which words: grades of another judge are no scale to compare with."""
    return {d.metric: f"{judge[0].name} {digest(asdict(d))[:8]}" for d in grades} if judge else {}


def unfit(spec: Spec, definitions: Sequence[Definition], judge: Judge | None, store: Store) -> dict[str, str]:
    """Which judged metrics cannot be decided, and why: no judge, or one that agrees too little with the bundled grades."""
    reasons = {}
    for definition in definitions:
        if judge is None:
            reasons[definition.metric] = NOT_CONFIGURED
        elif spec.judge.min_kappa is not None and definition.steps:
            known = calibration.load_calibration(judge[0], definition, store)
            kappa = known.kappa.value if known and known.kappa else None
            if kappa is None or kappa < spec.judge.min_kappa:
                own = f" --spec {spec.id}" if spec.judge.evaluation_steps else ""
                said = (
                    f"is not calibrated; run prism calibrate-judge{own}" if kappa is None else f"has kappa {kappa:.2f}"
                )
                reasons[definition.metric] = f"the judge {said}, and [judge].min_kappa = {spec.judge.min_kappa:g}"
    return reasons


def details(
    grades: Mapping[Definition, Sequence[Grade]], unfit: Mapping[str, str], judge: Judge | None, store: Store
) -> dict[str, Any]:
    """Who judged, what went unscored and why, what the judge is worth and what it cost."""
    if judge is None:
        return {"not_judged": next(iter(unfit.values()), "")}
    choice, spending = judge
    known = {d: calibration.load_calibration(choice, d, store) for d in grades}
    return {
        "judge": choice.name,
        "unscored": {definition.metric: unscored_reasons(found) for definition, found in grades.items()},
        "empty": {d.metric: n for d, found in grades.items() if (n := sum(g.reason == EMPTY for g in found))},
        "calibration": {d.metric: found.sentence() if found else _uncalibrated(d) for d, found in known.items()},
        "spending": spending.summary(),
    }


def _uncalibrated(definition: Definition) -> str:
    return "not calibrated" if definition.steps else "not calibrated, which min_kappa asks of GEval's metrics alone"


def reasons(grades: Mapping[Definition, Sequence[Grade]], held_out: Sequence[Example]) -> list[dict[str, list[str]]]:
    """A sample's reasons by metric: the judge's for the baseline's answer and for the first seed's."""
    n = len(held_out)
    return [{d.metric: [found[i].reason, found[n + i].reason] for d, found in grades.items()} for i in range(n)]
