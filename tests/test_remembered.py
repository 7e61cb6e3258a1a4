"""The rows of a file are read once: what later runs need of them is remembered by the file's bytes."""

from dataclasses import replace
from datetime import date

import pytest

from prism.errors import DataError
from prism.experiment import Experiment
from prism.models.identity import adapter_identity
from prism.progress import Console
from prism.rows import parts, remembered
from prism.setting import Setting
from prism.spec import load_spec
from prism.store import Store, digest, list_digest
from tests.conftest import ROOT, SPEC, examples_of, write_rows, write_spec


@pytest.fixture
def reads(monkeypatch):
    """The files that are parsed."""
    files = []
    read = parts.read_rows
    monkeypatch.setattr(parts, "read_rows", lambda path: files.append(path.name) or read(path))
    return files


def experiment(tmp_path, rows, **changes):
    """A new experiment, as another run has it, over the same store."""
    path = changes.pop("path", None) or write_rows(tmp_path / "rows.jsonl", rows)
    text = SPEC.format(data=path, model="fixtures/models/nano-text")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    spec = load_spec(write_spec(tmp_path, text))
    return Experiment(spec, Setting(tmp_path, Store(tmp_path / "home"), Console()), [42])


def test_a_second_run_has_the_same_examples_and_reads_no_row(tmp_path, rows, reads):
    rows = [*rows, *rows[:40]]  # twins on both sides, so that there are leaks to tell of
    first = experiment(tmp_path, rows).examples
    assert reads == ["rows.jsonl"]
    again = experiment(tmp_path, rows).examples
    assert again.held_out == first.held_out
    assert again.leaks == first.leaks
    assert first.leaks.held_out
    assert again.leaks.summary(again.training, again.held_out) == first.leaks.summary(first.training, first.held_out)
    assert again.leaks.by_id(again.training, again.held_out) == first.leaks.by_id(first.training, first.held_out)
    assert (len(again.training), again.training.content) == (len(first.training), first.training.content)
    assert reads == ["rows.jsonl"]
    assert list(again.training) == list(first.training)  # only now
    assert reads == ["rows.jsonl"] * 2


def test_the_adapter_of_remembered_rows_is_that_of_rows_that_were_read(tmp_path, rows):
    _ = experiment(tmp_path, rows).examples
    again = experiment(tmp_path, rows)
    read, _ = examples_of(again.spec, tmp_path)
    made = [adapter_identity(again.spec, {}, part, 42, tmp_path) for part in (again.examples.training, read)]
    assert made[0] == made[1]
    assert made[1]["rows"] == digest([[e.messages, e.reference] for e in read])  # what stored adapters are named by


@pytest.mark.parametrize("of_list", [True, False])
def test_rows_without_those_that_were_left_out_are_known_alike(tmp_path, rows, of_list, reads):
    _ = experiment(tmp_path, rows).examples
    known = experiment(tmp_path, rows).examples.training
    training = remembered.Training.of(list(known)) if of_list else known
    dropped = {known[1].id, known[5].id}
    left = training.without(dropped)
    assert left.content == known.without(dropped).content != known.content
    assert len(left) == len(known) - 2
    assert [example.id for example in left] == [example.id for example in known if example.id not in dropped]
    assert training.without(set()) is training


def test_other_bytes_and_another_split_are_read_anew_and_another_threshold_is_not(tmp_path, rows, reads):
    first = experiment(tmp_path, rows).examples
    gated = experiment(tmp_path, rows, **{"floor = 0.0": "floor = 0.1", "r = 4": "r = 8"}).examples
    assert (gated.held_out, gated.training.content) == (first.held_out, first.training.content)
    assert len(reads) == 1
    _ = experiment(tmp_path, rows, **{"eval_rows = 40": "eval_rows = 30"}).examples.held_out
    assert len(reads) == 2
    rows[0] = {**rows[0], "tweet": "Another text altogether"}
    assert experiment(tmp_path, rows).examples.training.content != first.training.content
    assert len(reads) == 3


def test_a_file_that_changes_while_its_training_rows_are_read(tmp_path, rows):
    _ = experiment(tmp_path, rows).examples
    training = experiment(tmp_path, rows).examples.training
    write_rows(tmp_path / "rows.jsonl", [{**row, "tweet": f"{row['tweet']}!"} for row in rows])
    with pytest.raises(DataError, match="phase1/.*: the file of its rows changed while it was read; run again"):
        list(training)


def test_a_task_beside_the_spec_may_read_what_it_likes_so_its_rows_are_read_each_time(tmp_path, rows):
    spec = experiment(tmp_path, rows).spec
    assert remembered.identity(spec, "", tmp_path, None) is not None
    assert remembered.identity(spec, "a digest of my_task.py", tmp_path, None) is None


def test_a_missing_file_is_refused_as_it_always_was(tmp_path, rows):
    with pytest.raises(DataError, match="none.jsonl: no such file"):
        _ = experiment(tmp_path, rows, path=tmp_path / "none.jsonl").examples


@pytest.mark.parametrize("fact", [date(2026, 1, 2), ("a", "b")])
def test_what_json_would_change_is_read_each_time(tmp_path, rows, reads, fact, monkeypatch):
    from prism.tasks import financial_sentiment

    make = financial_sentiment.example
    monkeypatch.setattr(financial_sentiment, "example", lambda row, id: replace(make(row, id), facts={"when": fact}))
    held_out = [experiment(tmp_path, rows).examples.held_out for _ in range(2)]
    assert held_out[0] == held_out[1]
    assert held_out[1][0].facts == {"when": fact}
    assert len(reads) == 2


@pytest.mark.parametrize("phase", ["phase1", "phase2", "phase3"])
def test_the_bundled_rows_of_a_task_without_images_are_read_once(tmp_path, reads, phase):
    spec = load_spec(ROOT / "benchmarks" / "specs" / phase / "nano.toml")
    setting = Setting(ROOT, Store(tmp_path), Console())
    first, again = (Experiment(spec, setting, [42]).examples.held_out for _ in range(2))
    assert first == again
    assert len(reads) == 1


def test_a_secret_in_a_row_is_not_taken_out_of_the_question(tmp_path, rows, reads, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_aSecretOfTheUser")
    rows = [{**row, "tweet": f"{row['tweet']} hf_aSecretOfTheUser"} for row in rows]
    held_out = [experiment(tmp_path, rows).examples.held_out for _ in range(2)]
    assert held_out[0] == held_out[1]
    assert "hf_aSecretOfTheUser" in held_out[1][0].question
    assert len(reads) == 2


def test_the_digest_of_a_list_in_pieces_is_its_digest():
    for parts_of_it in ([], [1], [["é", {"b": 1, "a": None}], "x", 2.5], list(range(256)), list(range(600))):
        assert list_digest(iter(parts_of_it)) == digest(parts_of_it)
