"""A spec that cannot be run is refused in one sentence: file, table, key, value, remedy."""

import pytest

from prism.errors import SpecError
from prism.spec import find_specs, load_spec
from prism.tasks.check import load_checked_spec
from tests.conftest import ROOT, SPEC, write_spec

GOOD = SPEC.format(data="rows.jsonl", model="fixtures/models/nano-text")

BAD = {
    "unknown key": ("seed     = 42", "sede = 42", "phase1/tiny.toml sede = 42: unknown key"),
    "unknown key in a table": ("max_seq_length = 128", "max_length = 128", "[model] max_seq_length: is missing"),
    "wrong type": (
        "max_seq_length = 128",
        'max_seq_length = "long"',
        "[model] max_seq_length = 'long': must be a valid",
    ),
    "no such profile": ('"nano"', '"huge"', "profile = 'huge': must be 'nano', 'small' or 'full'"),
    "no such task": ('"financial_sentiment"', '"astrology"', 'task = "astrology": no such task; the tasks are '),
    "task that is a path": ('"financial_sentiment"', '"../x"', "must be the name of a module in prism/tasks"),
    "floor out of range": ("floor = 0.0", "floor = 1.2", "[gate.tier1] accuracy.floor = 1.2: must be in [0, 1]"),
    "no such metric": ("unparsable_rate", "acuracy", "[gate.tier1] acuracy: not a tier1 metric of financial_sentiment"),
    "threshold without a key": ("{ ceiling = 1.0 }", "{}", "at least one of floor, ceiling, gain, drop"),
    "drop in percent": ("gain = 0.9", "drop = 3.0", "[gate.tier1] accuracy.drop = 3: must be in [-1, 1]"),
    "gain that is no number": ("gain = 0.9", "gain = nan", "accuracy.gain = nan: must be a finite number"),
    "floor where lower is better": (
        "{ ceiling = 1.0 }",
        "{ floor = 0.1 }",
        "unparsable_rate.floor: has no effect, as lower is better",
    ),
    "ceiling where higher is better": (
        "floor = 0.0",
        "ceiling = 0.9",
        "accuracy.ceiling: has no effect, as higher is better",
    ),
    "cost that is compared": (
        "[gate.tier1]",
        "[gate.cost]\npeak_memory_gib = { gain = 1 }\n[gate.tier1]",
        "[gate.cost] peak_memory_gib.gain: a cost is one measurement without a baseline; give it a ceiling",
    ),
    "negative drop": ("floor = 0.0", "drop = -0.1", "accuracy.drop = -0.1"),
    "no such tier": ("[gate.tier1]", "[gate.tier9]", "tier9"),
    "two ways to split": ("stratify =", 'group = "a", stratify =', "stratify and group exclude each other"),
    "parts and a way to split": (
        'test_size = 0.25, stratify = "sentiment"',
        'train = "train", test = "test", stratify = "sentiment"',
        "stratify and group split rows that have no official parts",
    ),
    "measured on its training rows": (
        'test_size = 0.25, stratify = "sentiment"',
        'train = "train", test = "train"',
        "train and test are the same part",
    ),
    "negative seed": ("seed     = 42", "seed = -1", "seed = -1: must be greater than or equal to 0"),
    "sampling": ("max_new_tokens = 4", "do_sample = true", "[generate] do_sample: is set by PRISM"),
    "no way to split": ("test_size = 0.25, ", "", "give either test_size or the official parts"),
    "share above one": ("test_size = 0.25", "test_size = 1.5", "must be below 1"),
    "no rows asked for": ("train_rows = 96", "train_rows = 0", "[data] train_rows = 0"),
    "key set by PRISM": ("use_cpu = true", 'output_dir = "x"', "[sft] output_dir: is set by PRISM"),
    "empty stop": (
        "max_new_tokens = 4",
        'stop_strings = ["a", ""]',
        "[generate] stop_strings = ['a', '']: must be a list",
    ),
    "one stop": (
        "max_new_tokens = 4",
        'stop_strings = "a"',
        "[generate] stop_strings = 'a': must be a list of non-empty strings",
    ),
    "a count as text": ("max_new_tokens = 4", 'max_new_tokens = "4"', "max_new_tokens = '4': must be a whole number"),
    "no token": ("max_new_tokens = 4", "max_new_tokens = 0", "max_new_tokens = 0: must be a whole number from 1 on"),
    "half a token": ("max_new_tokens = 4", "max_new_tokens = 8.5", "max_new_tokens = 8.5: must be a whole number"),
    "beams": ("max_new_tokens = 4", "num_beams = -1", "num_beams = -1: must be a whole number from 1 on"),
    "penalty": ("max_new_tokens = 4", "repetition_penalty = -1.0", "repetition_penalty = -1.0: must be a number above"),
    "by the clock": ("max_new_tokens = 4", "max_time = 2.0", "max_time: answers would depend on the machine's speed"),
    "switch": ("max_new_tokens = 4", 'use_cache = "no"', "[generate] use_cache = 'no': must be true or false"),
    "brackets": ("max_new_tokens = 4", "bad_words_ids = " + "[" * 5_000, "not valid TOML"),
    "inline tables": ("max_new_tokens = 4", "a = " + "{a=" * 5_000, "not valid TOML"),
    "digits": ("max_new_tokens = 4", "max_new_tokens = " + "9" * 5_000, "not valid TOML"),
    "dots": ("max_new_tokens = 4", ".".join("a" * 100_000) + " = 1", "nests tables too deeply; correct that key"),
    "size": ("max_new_tokens = 4", "# " + "a" * 300_000, "bytes, more than the 262,144 of any spec"),
    "remote code": ("max_new_tokens = 4", "trust_remote_code = true", "[generate] trust_remote_code"),
    "not TOML": ("[lora]", "[lora", "not valid TOML"),
    "name in the file": ("seed     = 42", 'name = "x"', "comes from the folder and file name"),
    "unknown table": ("[sft]", "[shift]", "shift: unknown key"),
}


@pytest.mark.parametrize(("good", "bad", "sentence"), BAD.values(), ids=BAD)
def test_bad_spec_is_refused_in_one_sentence(tmp_path, good, bad, sentence):
    assert good in GOOD
    path = write_spec(tmp_path, GOOD.replace(good, bad, 1))
    with pytest.raises(SpecError) as error:
        load_checked_spec(path)
    assert sentence in str(error.value)
    assert str(error.value).startswith("phase1/tiny.toml")
    assert "\n" not in str(error.value).replace("not valid TOML", "")


@pytest.mark.parametrize("name", ["a@b", "a:b", "a[1]", "a\\b", "line\nend", "x" * 81, " lead"])
def test_a_name_that_is_no_part_of_a_path_is_refused_before_anything_is_spent(tmp_path, name):
    """It names the files of the run and of the accepted scores."""
    spec = write_spec(tmp_path, SPEC.format(data="rows.jsonl", model="model"), name)
    with pytest.raises(SpecError, match="must be a plain name of at most 80 characters"):
        load_spec(spec)
    assert load_spec(write_spec(tmp_path, spec.read_text(), "größe 1.5-b_2")).name == "größe 1.5-b_2"


def test_missing_spec(tmp_path):
    with pytest.raises(SpecError, match="no such spec"):
        load_checked_spec(tmp_path / "phase1" / "none.toml")


def test_limits_come_in_the_order_of_the_file(tmp_path):
    spec = load_checked_spec(write_spec(tmp_path, GOOD))
    assert [limit.id for limit in spec.limits()] == [
        "tier1-accuracy-floor",
        "tier1-accuracy-gain",
        "tier1-unparsable_rate-ceiling",
    ]


@pytest.mark.parametrize("path", find_specs(ROOT / "benchmarks" / "specs"), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_shipped_specs_and_their_options_are_good(path, tmp_path):
    from prism.models import train

    spec = load_checked_spec(path)
    on_cpu = {**spec.sft, "use_cpu": True, "bf16": False}  # SFTConfig refuses bf16 where no GPU can do it
    train.check(spec.model_copy(update={"sft": on_cpu}), tmp_path)
