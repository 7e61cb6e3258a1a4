"""Does a model know how sure it may be? Its probability of the likeliest label, held against how often that is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from prism.verdicts.intervals import wilson

BINS = 10  # of equal width, as in Guo et al. 2017, On Calibration of Modern Neural Networks


def reliability(likelihoods: Sequence[Mapping[str, float]], truth: Sequence[str]) -> dict[str, Any]:
    """Expected calibration error and its bins, from each sample's log-likelihood of each label.

    The likelihoods are normalized over the labels: what else the model might have said is left out. A bin holds its
    samples, their mean probability and share right, and the share's 95 % Wilson interval; empty bins are left out.
    """
    labels = list(likelihoods[0])
    logs = numpy.array([[sample[label] for label in labels] for sample in likelihoods])
    shares = numpy.exp(logs - logs.max(1, keepdims=True))
    sure = (shares / shares.sum(1, keepdims=True)).max(1)
    right = numpy.array([labels[i] == said for i, said in zip(logs.argmax(1), truth)])
    place = numpy.minimum((sure * BINS).astype(int), BINS - 1)
    bins: list[dict[str, Any]] = []
    for i in range(BINS):
        held = place == i
        if n := int(held.sum()):
            hits = int(right[held].sum())
            low, high = wilson(hits, n)
            bins.append({"n": n, "probability": float(sure[held].mean()), "right": hits / n, "ci": [low, high]})
    error = sum(row["n"] * abs(row["probability"] - row["right"]) for row in bins) / len(truth)
    return {
        "n": len(truth),
        "ece": error,
        "probability": float(sure.mean()),
        "right": float(right.mean()),
        "bins": bins,
    }
