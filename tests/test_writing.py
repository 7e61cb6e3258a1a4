"""Answers are written while the next are computed: all of them, in order, and no error of the other thread is lost."""

import json
import threading

import pytest

from prism.models.writing import Writer
from prism.rows import Example


class Letters:
    """A tokenizer of whole letters, which waits for `allowed` before it decodes."""

    def __init__(self, allowed=None):
        self.allowed = allowed

    def decode(self, ids, skip_special_tokens):
        if self.allowed:
            assert self.allowed.wait(20)
        return "".join(map(chr, ids))


def asked(*ids):
    return [Example(each, ({"role": "user", "content": each},), "x", each) for each in ids]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def writer(file, tokenizer, seen=None, told=None, stops=(), behind=True):
    seen, told = [] if seen is None else seen, [] if told is None else told

    def observe(example, ids):
        seen.append((example.id, ids))

    return Writer(file, tokenizer, [0], list(stops), "<", observe, told.append, behind)


def test_the_next_batch_begins_before_the_last_is_written(tmp_path):
    allowed, seen, told = threading.Event(), [], []
    file = tmp_path / "answers"
    with file.open("w") as out, writer(out, Letters(allowed), seen, told, stops=["c"]) as one:
        one.add(asked("1", "2"), [[97, 98, 0, 0], [97, 99, 98]])
        assert (file.read_text(), told) == ("", [])  # and the model would go on
        allowed.set()
        one.add(asked("3"), [[97]])
        assert told == [2]
    assert told == [2, 1]
    assert [(line["id"], line["answer"], line["tokens"], line["finish"]) for line in lines(file)] == [
        ("1", "<ab", 2, "stop"),
        ("2", "<a", 2, "stop"),
        ("3", "<a", 1, "length"),
    ]
    assert seen == [("1", [97, 98, 0]), ("2", [97, 99]), ("3", [97])]
    assert one.tokens == 5


def test_with_images_nothing_is_decoded_meanwhile(tmp_path):
    told = []
    with (tmp_path / "answers").open("w") as out, writer(out, Letters(), told=told, behind=False) as one:
        one.add(asked("1"), [[97]])
        assert told == [1]


class Broken(Letters):
    def decode(self, *_, **__):
        raise OSError("disk full")


@pytest.mark.parametrize("batches", [1, 2])
def test_an_error_in_the_thread_is_raised_by_the_next_batch_or_at_the_end(tmp_path, batches):
    def answer():
        with (tmp_path / "answers").open("w") as out, writer(out, Broken()) as one:
            for _ in range(batches):
                one.add(asked("1"), [[97]])

    with pytest.raises(OSError, match="disk full"):
        answer()


def test_what_is_begun_is_written_when_the_model_is_interrupted(tmp_path):
    file = tmp_path / "answers"

    def answer():
        with file.open("w") as out, writer(out, Letters()) as one:
            one.add(asked("1", "2"), [[97], [98]])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer()
    assert [line["id"] for line in lines(file)] == ["1", "2"]
