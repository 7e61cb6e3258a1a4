"""The first inputs of each fuzzer, and of `make test-faults` more of them; `python -m tests.faults.fuzz` goes on."""

import random

import pytest

from tests.faults.fuzz import attempt, input_of, place_of
from tests.faults.mutating import mutated
from tests.faults.readers import READERS

# By reader: how many inputs `make test` gives it; slow ones load a model, or score every task's metrics.
QUICK = {
    "spec": 40,
    "answers": 6,
    "model": 20,
    "template": 4,
    "adapter": 12,
    "examples": 15,
    "reply": 60,
    "bundle": 40,
    "run": 60,
}
ORDINARY = 150


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The readers that were made already."""
    made = {}

    def reader(name):
        if name not in made:
            made[name] = READERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return reader


def fuzzed(name, reader, numbers):
    found = []
    for number in numbers:
        if error := attempt(reader, input_of(name, reader, number)):
            found.append(f"{place_of(error)}: {error!r:.300}; python -m tests.faults.fuzz {name} --number {number}")
    return found


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_its_own_seeds(name, known):
    """Else everything that is made of them is refused, and nothing is tried."""
    reader = known(name)
    assert [error for seed in reader.seeds if (error := attempt(reader, seed))] == []


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_refuses_in_one_sentence(name, known):
    assert fuzzed(name, known(name), range(QUICK.get(name, ORDINARY))) == []


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_refuses_more_inputs(name, known):
    first = QUICK.get(name, ORDINARY)
    assert fuzzed(name, known(name), range(first, 12 * first)) == []


def test_the_same_number_is_the_same_input():
    seeds = [b'{"a": [1, 2]}', b"x = 1\n"]
    made = [[mutated(random.Random(n), seeds) for n in range(200)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 150
