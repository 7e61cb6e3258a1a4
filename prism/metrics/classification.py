"""Tier 1 for closed labels: accuracy, F1, the lowest recall of a label and the rate of answers that are not a label.

An unparsable answer is wrong for accuracy and a miss for F1 (it has its own column in the confusion matrix, and no
row), and its rate is reported separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from prism.metrics import Metric, Statistics
from prism.rows import Example

Parse = Callable[[str], str | None]
CELL = (0.0, 1.0)  # a sample counts once in a cell, or not at all
# The controls of `prism.verdicts.controls.untaught`. An untuned model's likeliest label alone is no measure of what it
# knows: on both bundled sets it is right less often than the most frequent label.
UNTAUGHT = ("label_likelihood", "prior_corrected", "majority_class")


def metrics(labels: Sequence[str], parse: Parse) -> tuple[Metric, ...]:
    """The label metrics, all functions of one confusion matrix of len(labels) rows and one more column.

    `knowledge_gain` is accuracy compared with the best answers that need no tuning (`UNTAUGHT`): the gain beyond learning
    the format of the answer, and how often each label occurs.
    """
    k = len(labels)

    def statistics(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
        cells = numpy.zeros((len(examples), k * (k + 1)))
        for row, (example, answer) in enumerate(zip(examples, answers)):
            predicted = parse(answer)
            column = k if predicted is None else labels.index(predicted)
            cells[row, labels.index(example.reference) * (k + 1) + column] = 1
        return cells

    def counts(sums: numpy.ndarray) -> _Counts:
        matrix = sums.reshape(*sums.shape[:-1], k, k + 1)
        hits = numpy.diagonal(matrix, axis1=-2, axis2=-1)
        return _Counts(hits, matrix[..., :-1].sum(-2), matrix.sum(-1), matrix[..., -1].sum(-1))

    def macro_f1(sums: numpy.ndarray) -> numpy.ndarray:
        return counts(sums).f1().mean(-1)

    return _metrics(
        statistics, counts, Metric("macro_f1", "tier1", statistics, macro_f1, bounds=CELL, sample="nothing")
    )


def counted(labels: Sequence[str], parse: Parse) -> tuple[Metric, ...]:
    """The same metrics of any number of labels: a sample has 3 numbers a label, where a matrix has as many as cells.

    The values need no labels, so that scores are read without them. macro_f1 is the mean over the labels that a sample
    has or an answer names, as scikit-learn's is: a spec may list labels that no held-out row has.
    """
    places = {label: place for place, label in enumerate(labels)}
    k = len(labels)

    def statistics(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
        rows = numpy.zeros((len(examples), 3 * k + 1))
        for row, example, answer in zip(rows, examples, answers):
            predicted, present = parse(answer), places[example.reference]
            row[2 * k + present] = 1
            if predicted is None:
                row[-1] = 1
            else:
                row[k + places[predicted]] = 1
                row[present] = predicted == example.reference
        return rows

    def counts(sums: numpy.ndarray) -> _Counts:
        hits, predicted, present = numpy.split(sums[..., :-1], 3, axis=-1)
        return _Counts(hits, predicted, present, sums[..., -1])

    def macro_f1(sums: numpy.ndarray) -> numpy.ndarray:
        found = counts(sums)
        return _ratio(found.f1().sum(-1), (found.present + found.predicted > 0).sum(-1))

    return _metrics(
        statistics, counts, Metric("macro_f1", "tier1", statistics, macro_f1, bounds=CELL, sample="nothing", version=2)
    )


@dataclass(frozen=True)
class _Counts:
    """By label (..., k): right answers, answers of this label, samples of it; and (...) answers that are no label."""

    hits: numpy.ndarray
    predicted: numpy.ndarray
    present: numpy.ndarray
    unparsable: numpy.ndarray

    def f1(self) -> numpy.ndarray:
        """Of each label; 0 if it was neither present nor predicted."""
        return _ratio(2 * self.hits, self.predicted + self.present)


def _metrics(
    statistics: Statistics, counts: Callable[[numpy.ndarray], _Counts], macro_f1: Metric
) -> tuple[Metric, ...]:
    def accuracy(sums: numpy.ndarray) -> numpy.ndarray:
        found = counts(sums)
        return _ratio(found.hits.sum(-1), found.present.sum(-1))

    def weighted_f1(sums: numpy.ndarray) -> numpy.ndarray:
        found = counts(sums)
        return _ratio((found.f1() * found.present).sum(-1), found.present.sum(-1))

    def worst_class_recall(sums: numpy.ndarray) -> numpy.ndarray:
        """The lowest share of right answers to the samples of one label, of those that have samples."""
        found = counts(sums)
        recall = numpy.where(found.present > 0, _ratio(found.hits, found.present), 1).min(-1, initial=1)
        return numpy.where(found.present.sum(-1) > 0, recall, 0)

    def unparsable_rate(sums: numpy.ndarray) -> numpy.ndarray:
        found = counts(sums)
        return _ratio(found.unparsable, found.present.sum(-1))

    return (
        Metric("accuracy", "tier1", statistics, accuracy, bounds=CELL, sample="right or wrong"),
        Metric("weighted_f1", "tier1", statistics, weighted_f1, bounds=CELL, sample="nothing"),
        macro_f1,
        Metric(
            "unparsable_rate",
            "tier1",
            statistics,
            unparsable_rate,
            direction="lower",
            bounds=CELL,
            sample="right or wrong",
        ),
        Metric(
            "knowledge_gain",
            "tier1",
            statistics,
            accuracy,
            bounds=CELL,
            against=UNTAUGHT,
            sample="right or wrong",
            version=2,
        ),
        Metric("worst_class_recall", "tier1", statistics, worst_class_recall, bounds=CELL, sample="nothing"),
    )


def _ratio(part: numpy.ndarray, whole: numpy.ndarray) -> numpy.ndarray:
    return numpy.divide(part, whole, out=numpy.zeros_like(numpy.asarray(part, float)), where=whole > 0)


def details(labels: Sequence[str], parse: Parse, examples: Sequence[Example], answers: Sequence[str]) -> dict:
    """The confusion matrix (last column: unparsable) and scikit-learn's per-class report, for the reports."""
    from sklearn.metrics import classification_report, confusion_matrix

    truth = [example.reference for example in examples]
    predicted = [parse(answer) or "unparsable" for answer in answers]
    columns = [*labels, "unparsable"]
    named = [label for label in labels if label in {*truth, *predicted}]  # the macro average is macro_f1's
    return {
        "labels": columns,
        "confusion": confusion_matrix(truth, predicted, labels=columns)[: len(labels)].tolist(),
        "per_class": classification_report(truth, predicted, labels=named, output_dict=True, zero_division=0),
    }
