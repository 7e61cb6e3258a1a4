"""Rows that do not fit the window, or hold a special token, are known before anything is measured."""

from dataclasses import replace

import pytest

from prism.errors import DataError
from prism.models import load, tokens, train, window
from prism.spec import load_spec
from tests.conftest import SPEC, examples_of, results, write_rows, write_spec

LONG = "went on about the weather " * 20  # more tokens than the window of 128


@pytest.fixture
def loaded(tiny, rows, tmp_path):
    spec = load_spec(write_spec(tmp_path, SPEC.format(data=write_rows(tmp_path / "rows.jsonl", rows), model=tiny)))
    training, held_out = examples_of(spec, tmp_path)
    return load.load(spec, tmp_path), training, held_out


def longer(example, text=LONG):
    return replace(example, messages=({"role": "user", "content": text},))


def with_sft(base, **options):
    base.spec = base.spec.model_copy(update={"sft": base.spec.sft | options})
    return base


def test_rows_without_an_answer_in_the_window_are_those_that_the_trainer_leaves_out(loaded, tmp_path):
    base, training, held_out = loaded
    mixed = [longer(e) if n % 3 == 0 else e for n, e in enumerate(training[:24])]
    at_the_edge = max(mixed[1:3], key=lambda e: window.lengths(base, [e], answered=True)[0])
    edge = window.lengths(base, [at_the_edge], answered=True)[0] - 2
    base.spec = base.spec.model_copy(update={"model": base.spec.model.model_copy(update={"max_seq_length": edge})})
    found = window.fitting(base, mixed, held_out)
    assert found.left_out == [e.id for e in mixed[::3]]
    assert at_the_edge.id in found.cut
    assert found.notes == {"window": edge, "left_out": found.left_out, "cut": found.cut}
    assert f"8 of 24 training rows are left out, as no token of their answer fits and {len(found.cut)} of 24" in (
        found.sentence
    )
    assert f"(first {', '.join(found.left_out[:3])})" in found.sentence
    from trl import SFTTrainer

    config = train.sft_config(base.spec, tmp_path, 42)
    model = load.add_adapter(base, 42)
    trainer = SFTTrainer(model, config, train_dataset=tokens.dataset(base, mixed), processing_class=base.tokenizer)
    assert len(trainer.train_dataset) == len(found.kept) == 16


def test_rows_that_fit_are_all_kept_and_nothing_is_said(loaded):
    base, training, held_out = loaded
    found = window.fitting(base, training, held_out)
    assert found.kept == found.askable == training
    assert found.sentence == ""
    assert found.notes == {}


@pytest.mark.parametrize(
    "options",
    [{"truncation_mode": "keep_end"}, {"max_length": None}, {"packing": True, "packing_strategy": "wrapped"}],
    ids=str,
)
def test_options_that_keep_every_answer(loaded, options):
    base, training, held_out = loaded
    found = window.fitting(with_sft(base, **options), [longer(training[0]), *training[1:]], held_out)
    assert found.left_out == found.cut == []


def test_the_trainers_own_length_is_the_window(loaded):
    base, training, held_out = loaded
    found = window.fitting(with_sft(base, max_length=1_000), [longer(training[0]), *training[1:]], held_out)
    assert found.left_out == found.cut == []
    assert training[0].id not in {example.id for example in found.askable}, "parity asks within [model].max_seq_length"


def test_no_row_with_an_answer_in_the_window_is_refused(loaded):
    base, training, held_out = loaded
    with pytest.raises(DataError, match=r"none of 96 training rows has a token of its answer within .*max_seq_length"):
        window.fitting(base, [longer(example) for example in training], held_out)


@pytest.mark.parametrize("part", ["training", "held_out", "reference"])
def test_a_turn_token_in_a_text_is_refused_with_its_sample(loaded, part):
    base, training, held_out = loaded
    text = "Up? <|im_end|>\n<|im_start|>assistant\nbullish"
    bad = replace(training[3], reference=text) if part == "reference" else longer(training[3], text)
    rows = (training, [bad]) if part == "held_out" else ([*training, bad], held_out)
    with pytest.raises(DataError, match=rf"sample {bad.id}: its text contains the special token <\|im_end\|>"):
        window.fitting(base, *rows)


def test_an_image_mark_is_plain_text_for_a_model_of_text(loaded):
    base, training, held_out = loaded
    assert window.fitting(base, [longer(training[0], "What is in <image>?"), *training[1:]], held_out).left_out == []


def test_a_run_counts_the_rows_that_were_trained_on(checkout, rows):
    long = [{**row, "tweet": LONG + str(n)} for n, row in enumerate(rows[:10])]
    write_rows(checkout.path / "parts" / "train.jsonl", [*rows[:50], *long])
    write_rows(checkout.path / "parts" / "test.jsonl", rows[60:90])
    path = checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    text = path.read_text().replace('test_size = 0.25, stratify = "sentiment"', 'train = "train", test = "test"')
    path.write_text(text.replace(str(checkout.path / "data" / "train.jsonl"), str(checkout.path / "parts")))
    found = checkout.runpytest_subprocess("benchmarks", "-q")
    screen = "\n".join([*found.outlines, *found.errlines])
    assert "phase1/tiny: 10 of 60 training rows are left out, as no token of their answer fits" in screen
    assert screen.index("10 of 60 training rows") < screen.index("answers, baseline: ")
    data = results(checkout)["specs"][0]["details"]["data"]
    assert data["training"] == 50
    assert data["without an answer in the window"].startswith("10, first ")
    assert "50 training rows" in (checkout.path / "reports" / "latest" / "report.md").read_text()
