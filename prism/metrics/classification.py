"""Tier 1 for closed labels: accuracy, F1 and the rate of answers that are not a label.

An unparsable answer is wrong for accuracy and a miss for F1 (it has its own column in the confusion matrix, and no
row), and its rate is reported separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy

from prism.metrics import Metric
from prism.rows import Example

Parse = Callable[[str], str | None]


def metrics(labels: Sequence[str], parse: Parse) -> tuple[Metric, ...]:
    """The label metrics, all functions of one confusion matrix of len(labels) rows and one more column.

    `knowledge_gain` is accuracy compared with the untuned model's likeliest labels: the gain beyond learning the format
    of the answer.
    """
    k = len(labels)

    def statistics(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
        cells = numpy.zeros((len(examples), k * (k + 1)))
        for row, (example, answer) in enumerate(zip(examples, answers)):
            predicted = parse(answer)
            column = k if predicted is None else labels.index(predicted)
            cells[row, labels.index(example.reference) * (k + 1) + column] = 1
        return cells

    def matrix(sums: numpy.ndarray) -> numpy.ndarray:
        return sums.reshape(*sums.shape[:-1], k, k + 1)

    def accuracy(sums: numpy.ndarray) -> numpy.ndarray:
        return _ratio(numpy.trace(matrix(sums), axis1=-2, axis2=-1), sums.sum(-1))

    def weighted_f1(sums: numpy.ndarray) -> numpy.ndarray:
        support = matrix(sums).sum(-1)
        return _ratio((_f1(matrix(sums)) * support).sum(-1), support.sum(-1))

    def macro_f1(sums: numpy.ndarray) -> numpy.ndarray:
        return _f1(matrix(sums)).mean(-1)

    def unparsable_rate(sums: numpy.ndarray) -> numpy.ndarray:
        return _ratio(matrix(sums)[..., -1].sum(-1), sums.sum(-1))

    return (
        Metric("accuracy", "tier1", statistics, accuracy, sample="right or wrong"),
        Metric("weighted_f1", "tier1", statistics, weighted_f1, sample="nothing"),
        Metric("macro_f1", "tier1", statistics, macro_f1, sample="nothing"),
        Metric("unparsable_rate", "tier1", statistics, unparsable_rate, direction="lower", sample="right or wrong"),
        Metric("knowledge_gain", "tier1", statistics, accuracy, against="label_likelihood", sample="right or wrong"),
    )


def _f1(matrix: numpy.ndarray) -> numpy.ndarray:
    """Per-class F1 of (..., k, k + 1) confusion matrices; 0 if a class was neither present nor predicted."""
    hits = numpy.diagonal(matrix, axis1=-2, axis2=-1)
    predicted = matrix[..., :-1].sum(-2)
    present = matrix.sum(-1)
    return _ratio(2 * hits, predicted + present)


def _ratio(part: numpy.ndarray, whole: numpy.ndarray) -> numpy.ndarray:
    return numpy.divide(part, whole, out=numpy.zeros_like(numpy.asarray(part, float)), where=whole > 0)


def details(labels: Sequence[str], parse: Parse, examples: Sequence[Example], answers: Sequence[str]) -> dict:
    """The confusion matrix (last column: unparsable) and scikit-learn's per-class report, for the reports."""
    from sklearn.metrics import classification_report, confusion_matrix

    truth = [example.reference for example in examples]
    predicted = [parse(answer) or "unparsable" for answer in answers]
    columns = [*labels, "unparsable"]
    return {
        "labels": columns,
        "confusion": confusion_matrix(truth, predicted, labels=columns)[: len(labels)].tolist(),
        "per_class": classification_report(truth, predicted, labels=list(labels), output_dict=True, zero_division=0),
    }
