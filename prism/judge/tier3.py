"""Add a judge's grades to a run: as metrics, with the judge's calibration, and why a metric cannot be decided.

What asks a judge is imported where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from prism.judge import Case, Definition, Grade
from prism.judge.choosing import NOT_CONFIGURED, Choice
from prism.judge.spending import Spending
from prism.metrics import Metric, judged
from prism.progress import Progress
from prism.rows import Example
from prism.spec import Spec
from prism.store import Store, digest

Judge = tuple[Choice, Spending]


def definitions(spec: Spec, judged: Sequence[Definition]) -> list[Definition]:
    """What a task has graded (`Task.judged`); the spec's evaluation steps, if any, replace the first's."""
    result = list(judged)
    if spec.judge.evaluation_steps and result:
        result[0] = replace(result[0], steps=tuple(spec.judge.evaluation_steps))
    return result


IsJudged = Callable[[Example], bool]  # whether a judge grades the answers to an example


def cases(held_out: Sequence[Example], answers: Sequence[Sequence[str]], is_judged: IsJudged) -> list[Case]:
    """One case for each judged example and set of answers: the baseline's first, then each seed's."""
    return [
        Case(f"{example.id}/{n}", example.question, answer, example.reference, example.facts.get("context", ""))
        for n, given in enumerate(answers)
        for example, answer in zip(held_out, given)
        if is_judged(example)
    ]


def grade_all(
    definitions: Sequence[Definition], cases: Sequence[Case], judge: Judge, store: Store, screen: Progress, spec: str
) -> dict[Definition, list[Grade]]:
    """The judge's grade of each case by each definition. Prints on `screen` the estimated cost, then the progress."""
    from prism.judge.grading import estimate, grade

    choice, spending = judge
    grades = {}
    for definition in definitions:
        expected = estimate(choice, definition, cases, store).sentence(choice.price)
        screen.say(f"{spec}: {definition.metric}: {expected}")
        with screen.progress(f"{spec}: {definition.metric} by {choice.name}", len(cases)) as advance:
            grades[definition] = grade(choice, definition, cases, store, spending=spending, advance=advance)
    return grades


def metric(
    definition: Definition,
    grades: Sequence[Grade],
    held_out: Sequence[Example],
    answers: Sequence[Sequence[str]],
    is_judged: IsJudged,
) -> Metric:
    """The metric of a judge's grades, which are in the order of `cases`."""
    pairs = [(example, answer) for given in answers for example, answer in zip(held_out, given)]
    keys = [(example.id, answer) for example, answer in pairs if is_judged(example)]
    return judged(definition.metric, {key: grade.score for key, grade in zip(keys, grades)}, is_judged)


def judges(grades: Mapping[Definition, Sequence[Grade]], judge: Judge | None) -> dict[str, str]:
    """The judge and definition of each metric, because grades of different judges cannot be compared."""
    return {d.metric: f"{judge[0].name} {digest(asdict(d))[:8]}" for d in grades} if judge else {}


def unfit(spec: Spec, definitions: Sequence[Definition], judge: Judge | None, store: Store) -> dict[str, str]:
    """Why judged metrics cannot be decided: no judge, or one that agrees too little with the bundled grades."""
    reasons, minimum = {}, spec.judge.min_kappa
    for definition in definitions:
        if judge is None:
            reasons[definition.metric] = NOT_CONFIGURED
        elif minimum is not None and definition.steps:
            from prism.judge import calibration

            latest = calibration.load_calibration(judge[0], definition, store)
            kappa = latest.kappa.value if latest and latest.kappa else None
            if kappa is None or kappa < minimum:
                own = f" --spec {spec.id}" if spec.judge.evaluation_steps else ""
                reasons[definition.metric] = (
                    f"the judge is not calibrated, but [judge].min_kappa = {minimum:g}; run prism calibrate-judge{own}"
                    if kappa is None
                    else f"the judge has kappa {kappa:.2f}, below [judge].min_kappa = {minimum:g}"
                )
    return reasons


def details(
    grades: Mapping[Definition, Sequence[Grade]], unfit: Mapping[str, str], judge: Judge | None, store: Store
) -> dict[str, Any]:
    """The judge, what is unscored and why, its calibration and its cost."""
    if judge is None:
        return {"not_judged": next(iter(unfit.values()), "")}
    from prism.judge import calibration
    from prism.judge.grading import EMPTY, unscored_reasons

    choice, spending = judge
    calibrations = {d: calibration.load_calibration(choice, d, store) for d in grades}
    return {
        "judge": choice.name,
        "unscored": {definition.metric: unscored_reasons(given) for definition, given in grades.items()},
        "empty": {d.metric: n for d, given in grades.items() if (n := sum(g.reason == EMPTY for g in given))},
        "calibration": {d.metric: c.sentence() if c else _uncalibrated(d) for d, c in calibrations.items()},
        "spending": spending.summary(),
    }


def _uncalibrated(definition: Definition) -> str:
    return "not calibrated" if definition.steps else "not calibrated; min_kappa applies to GEval's metrics only"


def reasons(
    grades: Mapping[Definition, Sequence[Grade]], held_out: Sequence[Example], is_judged: IsJudged
) -> dict[str, dict[str, list[str]]]:
    """By sample id the reasons by metric: the judge's for the baseline's answer and for the first seed's."""
    ids = [example.id for example in held_out if is_judged(example)]
    n = len(ids)
    return {
        name: {d.metric: [given[i].reason, given[n + i].reason] for d, given in grades.items()}
        for i, name in enumerate(ids)
    }
