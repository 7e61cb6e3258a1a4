"""Reliability against scikit-learn's curve, and against a model that is as sure as it may be."""

import math

import numpy
import pytest
from sklearn.calibration import calibration_curve

from prism.verdicts.reliability import reliability

LABELS = ("neutral", "bullish", "bearish")


def drawn(seed: int, n: int, sharpen: float) -> tuple[list[dict[str, float]], list[str]]:
    """Samples whose truth is drawn from the very probabilities; the model states them `sharpen` times as sure."""
    random = numpy.random.default_rng(seed)
    logs = numpy.log(random.dirichlet([1, 1, 1], n))
    truth = [LABELS[random.choice(3, p=numpy.exp(row))] for row in logs]
    return [dict(zip(LABELS, row * sharpen - 40)) for row in logs], truth


def test_bins_are_scikit_learns():
    likelihoods, truth = drawn(0, 3000, 1)
    found = reliability(likelihoods, truth)
    shares = numpy.array([[math.exp(v) for v in sample.values()] for sample in likelihoods])
    right = [max(sample, key=sample.get) == said for sample, said in zip(likelihoods, truth)]
    hits, sure = calibration_curve(right, (shares / shares.sum(1, keepdims=True)).max(1), n_bins=10)
    assert [row["right"] for row in found["bins"]] == pytest.approx(hits.tolist())
    assert [row["probability"] for row in found["bins"]] == pytest.approx(sure.tolist())
    assert sum(row["n"] for row in found["bins"]) == found["n"] == 3000
    assert all(row["ci"][0] <= row["right"] <= row["ci"][1] for row in found["bins"])


def test_a_model_as_sure_as_it_may_be_has_no_error_and_a_boastful_one_has():
    assert reliability(*drawn(1, 20_000, 1))["ece"] < 0.015
    boastful = reliability(*drawn(1, 20_000, 5))
    assert boastful["ece"] > 0.2
    assert boastful["ece"] == pytest.approx(boastful["probability"] - boastful["right"], abs=1e-3)
    assert boastful["bins"][-1]["probability"] <= 1


def test_one_sample_that_is_certain():
    assert reliability([{"a": 0.0, "b": -math.inf}], ["a"])["ece"] == 0
