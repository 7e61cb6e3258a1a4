"""Scores that are kept as tables are those that were computed, to the last bit."""

import json
import math
from dataclasses import replace

import numpy

from prism.metrics import Metric
from prism.verdicts.kept import Kept
from prism.verdicts.record import Control, Score, empty_record
from tests.scored import tiny_spec


def remembering():
    """A memory like the store's, which holds JSON, and the identities under which something was computed."""
    known, computed = {}, []

    def remember(identity, compute):
        key = json.dumps(identity, sort_keys=True)
        if key not in known:
            computed.append(identity)
            known[key] = json.dumps(compute())
        return json.loads(known[key])

    return remember, computed


def test_records_come_back_as_they_were_computed(tmp_path):
    third = Score(1 / 3, (-math.inf, 0.1 + 0.2), p=1e-300, rule="exact")
    known = {"n": 3, "groups": 2, "seeds": {"42": 1 / 3}, "baseline": third, "tuned": third, "gain": third}
    record = empty_record(tiny_spec(tmp_path), "0" * 64, "tier1", "accuracy", 1, **known)
    record = replace(record, controls={"classical": Control(0.5, (0.4, 0.6), third, "Wilson")})
    remember, computed = remembering()
    kept = Kept({"evaluation": "0" * 64}, remember)
    assert kept.records("records", lambda: [record]) == [record]
    assert kept.records("records", list) == [record]  # found, not computed
    assert kept.records("records", list, leaked=[1]) == []  # another table
    assert len(computed) == 2
    assert math.isnan(
        kept.records("records", lambda: [replace(record, gain=replace(third, value=math.nan))], a=1)[0].gain.value
    )


def test_metrics_of_one_confusion_matrix_share_their_statistics():
    asked = []

    def statistics(examples, answers):
        asked.append(answers)
        return numpy.array([[len(answer) / 3, math.nan] for answer in answers])

    shared = [Metric(name, "tier1", statistics) for name in ("accuracy", "macro_f1")]
    remember, _ = remembering()
    kept = Kept({}, remember)
    for _ in range(2):
        (found,) = kept.statistics(shared, [None, None], [["a", "bb"], ["ccc", ""]]).values()
        numpy.testing.assert_array_equal(found, [statistics(None, ["a", "bb"]), statistics(None, ["ccc", ""])])
    assert asked[:2] == [["a", "bb"], ["ccc", ""]]
    assert len(asked) == 2 + 2 * 2  # once for the table; the others are this test's own
