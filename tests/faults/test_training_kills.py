"""kill -9 at every stage boundary and at random steps: in the end there are the bytes of a run that was not killed.

Each life is a fork of this process, so that the libraries are imported once. `make test-faults` runs this, not `make test`.
"""

import itertools
import json
import random
import warnings
from contextlib import contextmanager

import pytest
import torch

from prism.experiment import Experiment
from prism.models import load, train
from prism.setting import Setting
from prism.spec import load_spec
from prism.store import Store, file_digest
from tests.conftest import SPEC, examples_of, write_rows, write_spec
from tests.faults.killing import ended, ended_before, kill

pytestmark = [pytest.mark.slow, pytest.mark.faults]
STEPS = {1: 24, 2: 12}  # of two epochs, by gradient accumulation
WEIGHTS = ("adapter_model.safetensors", "adapter_config.json")


@pytest.fixture
def spec_of(tiny, rows, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", rows)

    def made(strategy="random", precision="float32", accumulation=1):
        text = SPEC.format(data=data, model=tiny)
        text = text.replace("use_cpu = true", f'use_cpu = true\ntrain_sampling_strategy = "{strategy}"')
        text = text.replace("gradient_accumulation_steps = 1", f"gradient_accumulation_steps = {accumulation}")
        if precision != "float32":
            text = text.replace("max_seq_length = 128", f'max_seq_length = 128\ndtype = "{precision}"')
        return load_spec(write_spec(tmp_path, text))

    return made


def trained(spec, folder, dies=lambda step: False):
    """One life of a training: it is killed where `dies` says so of a step."""
    folder.mkdir(exist_ok=True)

    def life():
        torch.set_num_threads(1)
        training, _ = examples_of(spec, folder)
        done = 0

        def advance(steps, said=""):
            nonlocal done
            done += steps
            if dies(done):
                kill()

        train.train(load.load(spec, folder), training, 42, folder, advance)

    return ended(life)


@pytest.mark.parametrize(
    "strategy", ["random", "sequential", "group_by_length"]
)  # what shipped specs name, and defaults
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_training_that_is_killed_at_random_steps_ends_with_the_same_bytes(
    spec_of, tmp_path, strategy, precision, accumulation
):
    spec, state = spec_of(strategy, precision, accumulation), random.Random(f"{strategy} {precision} {accumulation}")
    assert trained(spec, tmp_path / "whole")
    steps = STEPS[accumulation]
    half = steps // 2
    for lives in ([state.randrange(1, half)], [half, state.randrange(half + 1, steps)], [steps]):
        folder = tmp_path / "-".join(map(str, lives))
        for last in lives:
            assert not trained(spec, folder, last.__eq__)
        assert trained(spec, folder)
        for name in WEIGHTS:
            assert file_digest(folder / name) == file_digest(tmp_path / "whole" / name), f"killed at {lives}"


def test_a_training_that_is_killed_while_it_writes_ends_with_the_same_bytes(spec_of, tmp_path):
    """Inside a checkpoint, between two, and as the adapter is saved."""
    spec = spec_of("group_by_length")
    assert trained(spec, tmp_path / "whole")

    def life(folder):
        torch.set_num_threads(1)
        training, _ = examples_of(spec, folder)
        train.train(load.load(spec, folder), training, 42, folder)

    state, number = random.Random(1), 0
    for count in itertools.count():
        folder = tmp_path / f"killed-{count}"
        folder.mkdir()
        number += state.randrange(1, 25)
        done = ended_before(number, lambda: life(folder))  # noqa: B023
        assert done or trained(spec, folder)
        for name in WEIGHTS:
            assert file_digest(folder / name) == file_digest(tmp_path / "whole" / name), f"killed at call {number}"
        if done:
            assert count > 3
            break


class Dying:
    """A screen that kills the process at its n-th event: the begin, the end and each step of every stage are events."""

    def __init__(self, left):
        self.left = left

    def say(self, sentence):
        pass

    def event(self):
        self.left -= 1
        if self.left == 0:
            kill()

    @contextmanager
    def progress(self, what, total=0):
        self.event()
        yield lambda steps, live="": self.event()
        self.event()


def test_a_run_that_is_killed_at_every_stage_boundary_measures_the_same(spec_of, tmp_path):
    spec = spec_of("group_by_length")

    def life(home, left, told):
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        setting = Setting(tmp_path, Store(home, lambda sentence: None), Dying(left))
        outcome = Experiment(spec, setting, [42]).outcome
        records = [[record.metric, record.tuned, record.baseline, record.gain] for record in outcome.result.records]
        records = [record for record in records if record[0] in outcome.scores.measures]
        told.write_text(json.dumps([repr(records), outcome.scores.ids, outcome.samples], default=str))

    def adapters(home):
        return [file_digest(path) for name in WEIGHTS for path in sorted(home.glob(f"adapters/*/{name}"))]

    assert ended(lambda: life(tmp_path / "whole", 0, tmp_path / "whole.json"))
    events = itertools.count(1)
    for left in events:
        home, told = tmp_path / f"home-{left}", tmp_path / f"{left}.json"
        done = ended(lambda: life(home, left, told))  # noqa: B023
        if not done:
            assert ended(lambda: life(home, 0, told))  # noqa: B023
        assert told.read_text() == (tmp_path / "whole.json").read_text(), f"killed at event {left}"
        assert adapters(home) == adapters(tmp_path / "whole")
        if done:
            assert left > 30
            return
        for _ in range(left % 5):  # not at each of the steps
            next(events)
