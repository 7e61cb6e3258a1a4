"""Calibrate a judge: compare its grades of answers with their known grades, before anyone relies on its scores.

The bundled answers have their grades by construction, which measures whether the judge follows its instructions, not
whether it agrees with people. For that, people can grade answers of their own and pass them in.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
from pydantic import TypeAdapter

from prism.errors import DataError
from prism.judge import Case, Definition, Grade
from prism.judge.choosing import Choice
from prism.judge.grading import grade, judgement_identity, unscored_reasons
from prism.judge.spending import Spending
from prism.rows import Row
from prism.rows.files import read_rows, require_columns
from prism.rows.splits import unique_ids
from prism.store import Store, digest, write_text
from prism.verdicts.intervals import bca, group_sums, resampled_sums
from prism.verdicts.record import Score

BUNDLED = Path(__file__).with_name("graded") / "rows.jsonl"
MAX_LEVELS = 11


@dataclass(frozen=True)
class Calibration:
    """The measurements of one judge on one metric. `kappa` and `length` are None if nothing could be graded."""

    judge: str
    metric: str
    source: str
    constructed: bool  # grades are fixed by construction; False: the file's authors graded
    n: int
    unscored: dict[str, int]
    levels: tuple[float, ...]
    kappa: Score | None  # quadratic-weighted, 95 % interval over groups
    length: Score | None  # change in score for twice the length, among answers of the same grade and wording
    repeats: int
    retest_deviation: float | None  # standard deviation of an answer's score over repetitions
    retest_changed: float | None  # share of answers whose level changes over repetitions
    kinds: tuple[dict[str, Any], ...]  # kind, n, grade, mean score, mean length
    made: str

    def sentence(self) -> str:
        """The sentence that a report shows with a figure of this judge."""
        if self.kappa is None or self.length is None:
            return f"none of {sum(self.unscored.values())} calibration answers could be graded"
        what = "answers graded by construction (not by people)" if self.constructed else f"answers of {self.source}"
        low, high = self.kappa.ci
        parts = [
            f"quadratic κ {self.kappa.value:.2f} [{low:.2f}, {high:.2f}] on {self.n} {what}",
            f"twice the length {self.length.value:+.3f} [{self.length.ci[0]:+.3f}, {self.length.ci[1]:+.3f}]",
        ]
        if self.retest_deviation is not None:
            parts.append(f"asked {self.repeats} times: ±{self.retest_deviation:.3f}")
        if self.unscored:
            parts.append(f"{sum(self.unscored.values())} unscored")
        return "; ".join(parts)


def read_graded(path: Path, scale: tuple[float, float] = (0.0, 1.0), metric: str | None = None) -> list[Row]:
    """Read rows of question, answer, reference and grade, and scale each grade from `scale` to [0, 1].

    A row may have the `context` that some metrics read. `metric` is the rows' metric; without it, each row needs the
    column. Raises DataError naming the row.
    """
    rows = read_rows(path)
    require_columns(rows, ["question", "answer", "reference", "grade"])
    low, high = scale
    graded = []
    for number, row in enumerate(rows, start=1):
        try:
            value = (float(row["grade"]) - low) / (high - low)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        if not 0 <= value <= 1:
            raise DataError(
                f"{path}, row {number}: grade {row['grade']!r} is not on a scale of {low:g} to {high:g}; "
                f"name the file's scale with --scale"
            )
        if not (graded_metric := metric or row.get("metric")):
            raise DataError(f'{path}, row {number}: no column "metric"; add it, or name it with --metric')
        graded.append({**row, "grade": value, "metric": graded_metric})
    return graded


def cases_of(rows: Sequence[Row]) -> list[Case]:
    texts = ("question", "answer", "reference", "context")
    return [Case(name, *(str(row.get(text) or "") for text in texts)) for name, row in zip(unique_ids(rows), rows)]


def calibrate(
    choice: Choice,
    definition: Definition,
    rows: Sequence[Row],
    store: Store,
    *,
    source: str,
    constructed: bool,
    repeats: int = 3,
    spending: Spending | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Calibration:
    """Have the judge grade the rows `repeats` times; store the result for the report and the gate."""
    grades = sorted({row["grade"] for row in rows})
    if not 2 <= len(grades) <= MAX_LEVELS:
        raise DataError(f"{source}: {len(grades)} different grades; agreement needs 2 to {MAX_LEVELS}")
    cases = cases_of(rows)
    spending = spending or Spending(choice.price)
    repetitions = [
        grade(choice, definition, cases, store, spending=spending, advance=advance, repeat=repeat)
        for repeat in range(repeats)
    ]
    result = measure(
        rows, repetitions, judge=choice.name, metric=definition.metric, source=source, constructed=constructed
    )
    path = _path(choice, definition, store)
    write_text(path, json.dumps(asdict(result), ensure_ascii=False, indent=1))
    store.share(path, replace=True)
    return result


def load_calibration(choice: Choice, definition: Definition, store: Store) -> Calibration | None:
    """Read the latest calibration of this judge on this metric, or None."""
    path = _path(choice, definition, store)
    store.gather_file(path)
    try:
        return TypeAdapter(Calibration).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        why = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read ({why}); run `prism calibrate-judge` again") from None


def _path(choice: Choice, definition: Definition, store: Store) -> Path:
    return store.home / "calibrations" / f"{digest(judgement_identity(choice, definition))}.json"


def measure(
    rows: Sequence[Row], repeated: Sequence[Sequence[Grade]], *, judge: str, metric: str, source: str, constructed: bool
) -> Calibration:
    """Agreement, length bias and test-retest spread of the grades, one list per repetition."""
    scores = numpy.array([[math.nan if g.score is None else g.score for g in grades] for grades in repeated])
    levels = sorted({row["grade"] for row in rows})
    scored = ~numpy.isnan(scores[0])
    graded_rows = [row for row, is_scored in zip(rows, scored) if is_scored]
    first = scores[0][scored]
    known = numpy.array([levels.index(row["grade"]) for row in graded_rows], dtype=int)
    lengths = numpy.array([len(str(row["answer"])) for row in graded_rows], dtype=float)
    groups = [str(row.get("group") or name) for name, row in zip(unique_ids(graded_rows), graded_rows)]
    deviation, changed = _retest(scores, levels)
    return Calibration(
        judge=judge,
        metric=metric,
        source=source,
        constructed=constructed,
        n=len(graded_rows),
        unscored=unscored_reasons(repeated[0]),
        levels=tuple(levels),
        kappa=_kappa(known, _nearest(first, levels), len(levels), groups) if graded_rows else None,
        length=_length_bias(first, lengths, [(row["grade"], row.get("wording")) for row in graded_rows], groups)
        if graded_rows
        else None,
        repeats=len(repeated),
        retest_deviation=deviation,
        retest_changed=changed,
        kinds=_kinds(graded_rows, first, lengths),
        made=time.strftime("%Y-%m-%d"),
    )


def _nearest(scores: numpy.ndarray, levels: Sequence[float]) -> numpy.ndarray:
    """The level that each score is closest to."""
    return numpy.abs(scores[..., None] - numpy.asarray(levels)).argmin(-1)


def _kappa(known: numpy.ndarray, judged: numpy.ndarray, levels: int, groups: Sequence[str]) -> Score:
    """Cohen's kappa with quadratic weights, and its interval by resampling groups."""
    from sklearn.metrics import cohen_kappa_score

    cells = numpy.eye(levels * levels)[known * levels + judged]
    weights = numpy.subtract.outer(range(levels), range(levels)) ** 2

    def kappa(sums: numpy.ndarray) -> numpy.ndarray:
        table = sums.reshape(*sums.shape[:-1], levels, levels)
        chance = table.sum(-1)[..., :, None] * table.sum(-2)[..., None, :]
        missed = (weights * table).sum((-1, -2)) * table.sum((-1, -2))
        expected = (weights * chance).sum((-1, -2))
        # A resample with a single level shows no agreement beyond chance.
        return numpy.where(expected > 0, 1 - missed / numpy.where(expected > 0, expected, 1), 0.0)

    sums = group_sums(cells, groups)
    estimate = bca(sums, resampled_sums(sums), kappa)
    value = cohen_kappa_score(known, judged, labels=range(levels), weights="quadratic")
    return Score(float(value) if math.isfinite(value) else estimate.value, (estimate.low, estimate.high))


def _length_bias(
    scores: numpy.ndarray, lengths: numpy.ndarray, strata: Sequence[object], groups: Sequence[str]
) -> Score:
    """The slope of the score on log2 of the length, within strata of one grade and, if rows have it, one wording.

    Across grades it would confound length with correctness (wrong answers can only be graded too high, right ones only
    too low), and across wordings with how well the judge reads synonyms.
    """
    x = numpy.log2(lengths)
    terms = numpy.stack([numpy.ones_like(x), x, scores, x * x, x * scores], axis=-1)
    members = [numpy.array([[own == stratum] for own in strata]) for stratum in dict.fromkeys(strata)]
    columns = numpy.concatenate([terms * member for member in members], axis=1)

    def slope(sums: numpy.ndarray) -> numpy.ndarray:
        n, x, y, xx, xy = numpy.moveaxis(sums.reshape(*sums.shape[:-1], -1, 5), -1, 0)
        n = numpy.maximum(n, 1)
        spread = (xx - x * x / n).sum(-1)
        return numpy.where(spread > 1e-9, (xy - x * y / n).sum(-1) / numpy.where(spread > 1e-9, spread, 1), 0.0)

    sums = group_sums(columns, groups)
    estimate = bca(sums, resampled_sums(sums), slope)
    return Score(estimate.value, (estimate.low, estimate.high))


def _retest(scores: numpy.ndarray, levels: Sequence[float]) -> tuple[float | None, float | None]:
    """Spread and changes of level over the repetitions, for the answers that were graded every time."""
    complete = scores[:, ~numpy.isnan(scores).any(0)]
    if len(scores) < 2 or not complete.size:
        return None, None
    deviation = math.sqrt(complete.var(0, ddof=1).mean())
    return deviation, float(numpy.ptp(_nearest(complete, levels), axis=0).astype(bool).mean())


def _kinds(rows: Sequence[Row], scores: numpy.ndarray, lengths: numpy.ndarray) -> tuple[dict[str, Any], ...]:
    """Mean score by kind of answer; rows without a kind are grouped by grade."""
    by_kind: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_kind.setdefault(str(row.get("kind") or f"grade {row['grade']:g}"), []).append(index)
    return tuple(
        {
            "kind": kind,
            "n": len(members),
            "grade": float(numpy.mean([rows[i]["grade"] for i in members])),
            "score": float(scores[members].mean()),
            "length": float(lengths[members].mean()),
        }
        for kind, members in by_kind.items()
    )
