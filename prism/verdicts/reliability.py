"""Calibration of a model's confidence: its probability of the likeliest label against how often that label is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from prism.verdicts.intervals import wilson

BINS = 10  # of equal width, as in Guo et al. 2017, On Calibration of Modern Neural Networks


def reliability(likelihoods: Sequence[Mapping[str, float]], truth: Sequence[str]) -> dict[str, Any]:
    """Expected calibration error and its bins, from each sample's log-likelihood of each label.

    The likelihoods are normalized over the labels; other answers are ignored. A bin has its number of samples, their
    mean probability and share right, and the share's 95 % Wilson interval; empty bins are left out.
    """
    labels = list(likelihoods[0])
    logs = numpy.array([[sample[label] for label in labels] for sample in likelihoods])
    weights = numpy.exp(logs - logs.max(1, keepdims=True))
    confidence = (weights / weights.sum(1, keepdims=True)).max(1)
    right = numpy.array([labels[i] == label for i, label in zip(logs.argmax(1), truth)])
    bin_of = numpy.minimum((confidence * BINS).astype(int), BINS - 1)
    bins: list[dict[str, Any]] = []
    for i in range(BINS):
        members = bin_of == i
        if n := int(members.sum()):
            hits = int(right[members].sum())
            low, high = wilson(hits, n)
            probability = float(confidence[members].mean())
            bins.append({"n": n, "probability": probability, "right": hits / n, "ci": [low, high]})
    error = sum(row["n"] * abs(row["probability"] - row["right"]) for row in bins) / len(truth)
    return {
        "n": len(truth),
        "ece": error,
        "probability": float(confidence.mean()),
        "right": float(right.mean()),
        "bins": bins,
    }
