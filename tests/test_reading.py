"""What all prompts begin with is read once on a CPU: the same answers and likelihoods as by reading each prompt whole."""

import json
import math
import subprocess
import sys

import pytest
import torch

from prism.experiment import Experiment
from prism.models import generate, likelihoods, load, reading
from prism.models.decode import CHECK_EVERY
from prism.progress import CONSOLE
from prism.rows.answers import ANSWERS, LIKELIHOODS, read_likelihoods, read_predictions
from prism.setting import Setting
from prism.spec import load_spec
from prism.store import Store, read_manifest
from tests.conftest import ROOT, SPEC, examples_of, write_rows, write_spec

LABELS = ("neutral", "bullish", "bearish")


@pytest.fixture
def asked(monkeypatch):
    """The nano base, whose answers differ in length, and 40 held-out headlines in several batches."""
    monkeypatch.setitem(generate.BATCH_TOKENS, "cpu", 900)
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml")
    spec = spec.model_copy(update={"generate": {"max_new_tokens": 4}})
    return load.load(spec, ROOT), examples_of(spec, ROOT)[1][:40]


def alone(monkeypatch):
    """Read each prompt whole, as before answers are compared."""
    monkeypatch.setattr(reading, "SHARED_FROM", sys.maxsize)


def answered(base, examples, folder, **options):
    folder.mkdir(exist_ok=True)
    generate.answers(base, base.model, examples, folder, **options)
    return read_predictions(folder, examples)


def close(found, expected):
    return all(
        math.isclose(one[label], other[label], rel_tol=1e-5)
        for one, other in zip(found, expected, strict=True)
        for label in LABELS
    )


def test_the_same_answers_whether_prompts_share_their_reading_or_not(asked, tmp_path, monkeypatch):
    base, examples = asked
    widths = []
    forward = base.model.forward
    monkeypatch.setattr(
        base.model, "forward", lambda **given: (widths.append(given["input_ids"].shape), forward(**given))[1]
    )
    shared = answered(base, examples, tmp_path / "shared")
    tokens = sum(rows * width for rows, width in widths)
    widths.clear()
    alone(monkeypatch)
    assert answered(base, examples, tmp_path / "alone") == shared
    assert {said.finish for said in shared} == {"stop", "length"}  # so some left their batch while others went on
    assert tokens < 0.9 * sum(rows * width for rows, width in widths)


def test_answers_that_are_complete_leave_their_batch(asked):
    base, examples = asked
    encoded = [generate.encode(base, example) for example in examples[:20]]
    told = []

    def stopped(said):
        told.append(len(said))
        return [ids[0] == first for ids in said]

    with torch.no_grad():
        begun = reading.beginning(base, base.model, encoded)
        whole = reading.greedy(base.model, *reading.after(base, begun, encoded), 20, ())
        first = whole[0][0]
        cut = reading.greedy(base.model, *reading.after(base, begun, encoded), 20, (), stopped)
    complete = sum(ids[0] == first for ids in whole)
    assert 0 < complete < 20
    assert told == [20, 20 - complete]  # every CHECK_EVERY tokens
    assert cut == [ids[:CHECK_EVERY] if ids[0] == first else ids for ids in whole]


def test_answers_end_at_a_stop_string(asked, tmp_path, monkeypatch):
    base, examples = asked
    said = [prediction.answer for prediction in answered(base, examples, tmp_path / "whole")]
    stop = next(answer[1:3] for answer in said if len(answer) > 3)
    base.spec = base.spec.model_copy(update={"generate": {**base.spec.generate, "stop_strings": [stop]}})
    cut = answered(base, examples, tmp_path / "cut")
    assert [prediction.answer for prediction in cut] == [answer.split(stop)[0] for answer in said]
    alone(monkeypatch)
    assert answered(base, examples, tmp_path / "alone") == cut


def test_labels_go_on_from_the_reading_of_the_answers(asked, tmp_path, monkeypatch):
    base, examples = asked
    together, apart = tmp_path / "together", tmp_path / "apart"
    apart.mkdir()
    together.mkdir()

    def ask(heard):
        return generate.answers(base, base.model, examples, together, heard=heard)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "after", _once_a_batch := _Counted(reading.after))
        likelihoods.likelihoods(base, base.model, examples, LABELS, together, ask=ask)
    batches = _once_a_batch.calls
    said = read_predictions(together, examples)
    alone(monkeypatch)
    likelihoods.likelihoods(base, base.model, examples, LABELS, apart)
    assert close(read_likelihoods(together, examples), read_likelihoods(apart, examples))
    assert answered(base, examples, apart) == said
    with monkeypatch.context() as patch:
        patch.setattr(reading, "after", counted := _Counted(reading.after))
        answered(base, examples, tmp_path / "answers")
    assert batches == counted.calls + 1  # one more for the comparison with the model


class _Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *given):
        self.calls += 1
        return self.function(*given)


def test_likelihoods_without_their_answers_and_the_other_way_round_are_finished(asked, tmp_path):
    """A process that was killed between two batches leaves one file longer than the other."""
    base, examples = asked

    def ask(heard):
        return generate.answers(base, base.model, examples, tmp_path, heard=heard)

    likelihoods.likelihoods(base, base.model, examples, LABELS, tmp_path, ask=ask)
    whole = read_likelihoods(tmp_path, examples), read_predictions(tmp_path, examples)
    for longer, shorter in ((LIKELIHOODS, ANSWERS), (ANSWERS, LIKELIHOODS)):
        for name, lines in ((longer, 30), (shorter, 5)):
            file = tmp_path / name
            file.write_text("".join(file.read_text().splitlines(keepends=True)[:lines]))
        likelihoods.likelihoods(base, base.model, examples, LABELS, tmp_path, ask=ask)
        assert close(read_likelihoods(tmp_path, examples), whole[0])
        assert read_predictions(tmp_path, examples) == whole[1]
        for name in (longer, shorter):
            ids = [json.loads(line)["id"] for line in (tmp_path / name).read_text().splitlines()]
            assert len(ids) == len(set(ids)) == len(examples)


def test_a_reading_that_moves_logits_is_not_used(asked, monkeypatch):
    base, examples = asked
    encoded = [generate.encode(base, example) for example in examples]
    with torch.no_grad():
        assert reading.beginning(base, base.model, encoded) is not None
        monkeypatch.setattr(reading, "positions", lambda prompt: prompt["attention_mask"].cumsum(-1) % 7)
        assert reading.beginning(base, base.model, encoded) is None


def test_what_keeps_prompts_from_sharing(asked, tmp_path):
    base, examples = asked
    encoded = [generate.encode(base, example) for example in examples]
    own = [[*ids[n % 2 :]] for n, ids in enumerate(encoded)]
    with torch.no_grad():
        assert reading.beginning(base, base.model, encoded[: reading.SHARED_FROM - 1]) is None
        assert reading.beginning(base, base.model, own) is None
    said = answered(base, examples, tmp_path / "greedy")
    base.spec = base.spec.model_copy(update={"generate": {**base.spec.generate, "repetition_penalty": 1.5}})
    assert answered(base, examples, tmp_path / "penalty") != said  # by `generate` itself


def test_the_baseline_makes_the_likelihoods_too_and_either_alone(tiny, rows, tmp_path):
    spec = load_spec(write_spec(tmp_path, SPEC.format(data=write_rows(tmp_path / "rows.jsonl", rows), model=tiny)))

    def experiment(home):
        return Experiment(spec, Setting(tmp_path, Store(tmp_path / home), CONSOLE), [42])

    one = experiment("one")
    made = one.baseline, one.likelihoods
    assert one.setting.made >= set(made)
    for stage, folder in zip(("answers, baseline", "label likelihoods"), made):
        assert one.clock.read()[stage] == pytest.approx(read_manifest(folder)["notes"]["seconds"], rel=0.5, abs=0.1)
    two = experiment("two")
    assert two.likelihoods.name == made[1].name
    assert two.baseline.name == made[0].name
    examples = one.examples.held_out
    assert read_predictions(two.baseline, examples) == read_predictions(made[0], examples)
    assert close(read_likelihoods(two.likelihoods, examples), read_likelihoods(made[1], examples))


def test_imports_collect_no_garbage_and_leave_the_collector_on():
    """In a process of its own, since this one has imported torch."""
    code = """
import gc
from prism.models.lazy import _importing
with _importing():
    during = gc.isenabled()
frozen = gc.get_freeze_count()
try:
    with _importing():
        raise ImportError
except ImportError:
    pass
print(during, gc.isenabled(), frozen > 1000)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.split() == ["False", "True", "True"]
