"""Rows: every way in gives the same rows, and what is wrong with them is said before anything is spent."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from prism.errors import DataError
from prism.rows.files import read_rows
from prism.rows.splits import split_rows, unique_ids
from prism.spec import load_spec
from tests.conftest import SPEC, examples_of, write_rows, write_spec


def spec_for(tmp_path, data, **changes):
    text = SPEC.format(data=data, model="fixtures/models/nano-text")
    for old, new in changes.items():
        text = text.replace({"split": 'stratify = "sentiment"', "columns": "train_rows = 96"}[old], new)
    return load_spec(write_spec(tmp_path, text))


def test_every_format_gives_the_same_rows(tmp_path, rows):
    write_rows(tmp_path / "a.jsonl", rows)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    with (tmp_path / "c.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["tweet", "sentiment"])
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    assert (
        read_rows(tmp_path / "a.jsonl")
        == read_rows(tmp_path / "b.jsonl.gz")
        == read_rows(tmp_path / "d.parquet")
        == rows
    )
    assert read_rows(tmp_path / "c.csv") == [{key: str(value) for key, value in row.items()} for row in rows]


BROKEN = {
    "no such file": ("none.jsonl", None, "no such file"),
    "another format": ("rows.xlsx", b"x", "not one of .jsonl.gz, .jsonl, .csv, .parquet"),
    "empty": ("rows.jsonl", b"", "contains no rows"),
    "header alone": ("rows.csv", b"tweet,sentiment\n", "contains no rows"),
    "broken line": ("rows.jsonl", b'{"tweet": "a"}\n{"tweet": \n', "rows.jsonl:2: not JSON"),
    "not an object": ("rows.jsonl", b"[1, 2]\n", "rows.jsonl:1: list, not an object"),
    "not UTF-8": ("rows.jsonl", b'{"tweet": "caf\xe9"}\n', "is not UTF-8"),
    "cut gzip": ("rows.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-12], "cannot be read"),
    "not gzip": ("rows.jsonl.gz", b"plain", "cannot be read"),
    "damaged gzip": ("rows.jsonl.gz", gzip.compress(b"")[:10] + b"\x07", "cannot be read"),  # no such kind of block
    "comma too many": ("rows.csv", b"tweet,sentiment\nup, they say,1\n", "rows.csv:2: has more values than the header"),
    "open quotation": ("rows.csv", b'tweet,sentiment\n"' + b"a" * 140_000, "look for an unclosed quotation mark"),
    "half a pair": ("rows.jsonl", b'{"tweet": "\\ud83d"}\n', "rows.jsonl:1: contains half of a surrogate pair"),
    "not parquet": ("rows.parquet", b"plain", "cannot be read"),
}


@pytest.mark.parametrize(("name", "content", "sentence"), BROKEN.values(), ids=BROKEN)
def test_broken_file(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence.replace("(", r"\(")) as error:
        read_rows(tmp_path / name)
    assert name in str(error.value)


BAD_ROWS = {
    "missing column": (
        [{"text": "a", "sentiment": 1}],
        "no value in column \"tweet\"; the row has 'text', 'sentiment'",
    ),
    "no value": ([{"tweet": "a", "sentiment": None}], 'no value in column "sentiment"'),
    "label outside the three": ([{"tweet": "a", "sentiment": 7}] * 40, "sentiment 7: not one of 0, 1, 2 or neutral"),
    "one class": ([{"tweet": f"a {n}", "sentiment": 1} for n in range(40)], 'rows are "bullish"; one class cannot be'),
    "too few": ([{"tweet": "a", "sentiment": 1}, {"tweet": "b", "sentiment": 2}], "add rows of it, or delete that row"),
}


@pytest.mark.parametrize(("bad", "sentence"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows(tmp_path, bad, sentence):
    data = write_rows(tmp_path / "rows.jsonl", bad)
    with pytest.raises(DataError) as error:
        examples_of(spec_for(tmp_path, data), tmp_path)
    assert sentence in str(error.value)


def test_stratified_split_is_the_same_each_time_and_keeps_shares(rows):
    first = split_rows(rows, {"test_size": 0.25, "stratify": "sentiment"}, 42)
    assert first == split_rows(rows, {"test_size": 0.25, "stratify": "sentiment"}, 42)
    assert first != split_rows(rows, {"test_size": 0.25, "stratify": "sentiment"}, 43)
    train, test = first
    assert len(test) == 40
    assert {sum(row["sentiment"] == label for row in test) for label in range(3)} <= {13, 14}
    assert sorted(map(str, train + test)) == sorted(map(str, rows))


def test_group_split_keeps_groups_whole():
    rows = [{"image": n // 4, "question": n} for n in range(80)]
    train, test = split_rows(rows, {"test_size": 0.2, "group": "image"}, 42)
    assert {row["image"] for row in train}.isdisjoint(row["image"] for row in test)
    assert len({row["image"] for row in test}) == 4


def test_groups_that_cannot_be_held_out_are_one_sentence():
    rows = [{"image": n // 4, "question": n} for n in range(80)]
    with pytest.raises(DataError, match="lower test_size or add rows"):
        split_rows(rows, {"test_size": 500, "group": "image"}, 42)


@pytest.mark.parametrize("header", [["headline", "tweet"], ["tweet", "headline"]], ids="-".join)
def test_a_mapped_column_wins_over_one_of_the_tasks_name(tmp_path, header):
    rows = [{name: f"{name} {n}" for name in header} | {"sentiment": n % 3} for n in range(60)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    training, _ = examples_of(spec_for(tmp_path, data, columns='columns = { tweet = "headline" }'), tmp_path)
    assert "\nheadline " in training[0].messages[-1]["content"]


def test_one_file_has_no_official_parts(tmp_path, rows):
    data = write_rows(tmp_path / "rows.jsonl", rows)
    text = SPEC.format(data=data, model="fixtures/models/nano-text")
    text = text.replace('test_size = 0.25, stratify = "sentiment"', 'train = "train", test = "test"')
    with pytest.raises(DataError, match="is one file without the parts train and test"):
        examples_of(load_spec(write_spec(tmp_path, text)), tmp_path)


def test_repeated_rows_have_names_of_their_own():
    assert len(set(unique_ids([{"a": 1}, {"a": 2}, {"a": 1}, {"a": 1}]))) == 4


def test_own_columns_and_words_as_labels(tmp_path):
    words = ["neutral", "Bullish", " bearish "]
    data = write_rows(tmp_path / "rows.jsonl", [{"headline": f"text {n}", "tone": words[n % 3]} for n in range(60)])
    columns = 'columns = { tweet = "headline", sentiment = "tone" }'
    training, held_out = examples_of(spec_for(tmp_path, data, columns=columns), tmp_path)
    assert len(training) == 45
    assert {example.reference for example in held_out} == {"neutral", "bullish", "bearish"}


def test_where_keeps_some_rows_and_says_when_it_keeps_none(tmp_path, rows):
    data = write_rows(tmp_path / "rows.jsonl", [{**row, "book": "ab"[n % 2]} for n, row in enumerate(rows)])
    training, held_out = examples_of(spec_for(tmp_path, data, columns='where = { book = ["a"] }'), tmp_path)
    assert len(training) + len(held_out) == 80
    with pytest.raises(DataError, match=r"\[data\]\.where = .* keeps none of 160 rows"):
        examples_of(spec_for(tmp_path, data, columns='where = { book = ["z"] }'), tmp_path)


def test_official_parts_and_prism_data(tmp_path, rows):
    write_rows(tmp_path / "sets" / "tweets" / "train.jsonl", rows[:100])
    write_rows(tmp_path / "sets" / "tweets" / "test.jsonl", rows[100:])
    text = SPEC.format(data="somebody/tweets", model="fixtures/models/nano-text")
    text = text.replace('test_size = 0.25, stratify = "sentiment"', 'train = "train", test = "test"')
    spec = load_spec(write_spec(tmp_path, text.replace("[data]", '[data]\nname = "tweets"')))
    training, held_out = examples_of(spec, tmp_path, tmp_path / "sets")
    assert len(training) == 96
    assert len(held_out) == 40
    assert len({example.id for example in training + held_out}) == 136


def test_hub_that_cannot_be_reached(tmp_path):
    with pytest.raises(
        DataError, match=r"somebody/nothing: cannot be downloaded from the hub .* pass --prism-data DIR"
    ):
        examples_of(spec_for(tmp_path, "somebody/nothing"), tmp_path)
