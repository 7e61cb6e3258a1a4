"""Finished adapters: which are refused, and why; which work; what is said of one whose training rows are unknown."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prism.errors import DataError, ModelError, SpecError
from prism.models import adapters, generate, load, parity
from prism.rows.examples import load_examples
from prism.spec import load_spec
from prism.store.adapters import CONFIG, WEIGHTS, find_adapter
from prism.tasks import load_task
from prism.tasks.financial_sentiment import example
from prism.verdicts.accepted import ask_git
from tests.conftest import SPEC, results, write_rows, write_spec
from tests.test_drop import commit, prism

# Without `split`: nobody says which rows it was trained on.
FINISHED = """
title   = "Our adapter"
task    = "financial_sentiment"
profile = "nano"
adapter = "my-adapter"
[data]
path = "{data}"
[model]
model_name = "{model}"
max_seq_length = 128
[generate]
max_new_tokens = 4
[gate.tier1]
unparsable_rate = {{ ceiling = 1.0 }}
"""
OTHER_TEMPLATE = (
    "{% for m in messages %}### {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}### {% endif %}"
)


def make_adapter(model, folder, seed=0, **options):
    """An adapter as plain PEFT saves it; its B is random, so that it changes every answer."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wanted = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | options
    tuned = get_peft_model(base, LoraConfig(**wanted))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name or ("modules_to_save" in name and weight.requires_grad):
                weight.add_(torch.randn_like(weight) * 0.1)
    tuned.save_pretrained(folder)
    return folder


def change_config(folder, **values):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder, change):
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


@pytest.fixture
def mine(tiny, tmp_path):
    return make_adapter(tiny, tmp_path / "my-adapter")


@pytest.fixture
def base(tiny, tmp_path):
    return load.load(load_spec(write_spec(tmp_path, FINISHED.format(data="rows.jsonl", model=tiny))), tmp_path)


@pytest.fixture
def probes(rows):
    return [example(row, str(n)) for n, row in enumerate(rows[:4])]


# --- files, before anything is loaded


def pickled(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).rename(folder / "decoy.safetensors")


def checkpoints(folder):
    for step in (9, 10):
        shutil.copytree(folder, folder / f"checkpoint-{step}", ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / CONFIG).unlink()


def whole_model(folder):
    (folder / CONFIG).rename(folder / "config.json")


FILES = {
    "no folder": (shutil.rmtree, r"there is no such folder under .*; correct the path"),
    "nothing in it": (lambda folder: (folder / CONFIG).unlink(), f"contains no {CONFIG}, so it is no adapter"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"contains no {WEIGHTS}; restore the adapter"),
    "a pickle beside a decoy": (pickled, r"adapter_model\.bin: a pickled adapter can run any code; convert it"),
    "its checkpoints": (checkpoints, "but 2 adapters, the last in checkpoint-10; set adapter to that folder"),
    "a whole model": (whole_model, r"is a whole model and no adapter; name it in \[model\]\.model_name"),
    "a list": (lambda folder: (folder / CONFIG).write_text("[]"), f"{CONFIG} is a list and no JSON object"),
    "no JSON": (lambda folder: (folder / CONFIG).write_text("{"), f"{CONFIG} is not JSON"),
    "no LoRA": (lambda folder: change_config(folder, peft_type="IA3"), "its peft_type is IA3; PRISM measures LORA"),
}


@pytest.mark.parametrize(("damage", "sentence"), FILES.values(), ids=FILES)
def test_files_that_are_no_adapter_are_refused(mine, tmp_path, damage, sentence):
    damage(mine)
    with pytest.raises(ModelError, match=rf'^tiny\.toml adapter = "my-adapter": .*{sentence}') as error:
        find_adapter("my-adapter", tmp_path, 'tiny.toml adapter = "my-adapter"')
    assert "\n" not in str(error.value)


def test_only_what_is_used_is_part_of_the_identity(mine, tmp_path):
    _, before = find_adapter("my-adapter", tmp_path, "adapter")
    (mine / "optimizer.pt").write_bytes(b"0")
    (mine / "trainer_state.json").write_text("{}")
    assert find_adapter("my-adapter", tmp_path, "adapter") == (mine, before)
    (mine / "chat_template.jinja").write_text(OTHER_TEMPLATE)
    assert find_adapter("my-adapter", tmp_path, "adapter")[1] != before


def test_a_hub_that_cannot_be_reached(tmp_path):
    sentence = (
        r"^owner/adapter: the model hub cannot be reached \(.*\); put the model into a local folder and set adapter = x"
    )
    with pytest.raises(ModelError, match=sentence):
        find_adapter("owner/adapter", tmp_path, "adapter = x")


# --- weights, on the base


def first(change):
    """Change the first weight."""

    def changed(weights):
        key = min(weights)
        return {**weights, key: change(weights[key].clone())}

    return changed


def with_value(value):
    def changed(weight):
        weight[0, 0] = value
        return weight

    return first(changed)


def renamed(weights):
    return {key.replace("base_model.model.", ""): weight for key, weight in weights.items()}


def half(weights):
    return {key: weights[key] for key in sorted(weights)[::2]}


def with_another(weights):
    return {**weights, "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}


def with_embeddings(weights):
    return {**weights, "base_model.model.model.embed_tokens.weight": torch.zeros(403, 32)}


WRONG_WEIGHTS = {
    "nothing fits": (renamed, r"has no place for 8 of its weights, such as .*lora_A\.weight; save it again"),
    "one has no place": (with_another, r"has no place for 1 of its weights, such as .*layers\.7"),
    "half are missing": (half, r"lacks 4 of the weights that its adapter_config\.json asks for, such as .*lora_B"),
    "not a number": (with_value(float("nan")), r"lora_A\.weight has values that are NaN or infinite; train it again"),
    "infinite": (with_value(float("inf")), r"lora_A\.weight has values that are NaN or infinite; train it again"),
    "resized embeddings": (with_embeddings, r"embeddings have 403 rows, and those of the base .* 400; merge it"),
    "another width": (
        first(lambda weight: torch.zeros(4, 48)),
        r"does not fit the base .*: .* is 4 × 48 in the adapter",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_weights_that_are_not_loaded_as_a_whole_are_refused(base, mine, change, sentence):
    change_weights(mine, change)
    with pytest.raises(ModelError, match=rf'^phase1/tiny\.toml adapter = "my-adapter": .*{sentence}') as error:
        adapters.load_adapter(base, mine)
    assert "\n" not in str(error.value)


def test_weights_cut_short(base, mine):
    (mine / WEIGHTS).write_bytes((mine / WEIGHTS).read_bytes()[:500])
    with pytest.raises(ModelError, match=f"{WEIGHTS} is damaged .*; restore the adapter"):
        adapters.load_adapter(base, mine)


def test_modules_that_the_adapter_names_and_does_not_hold(base, mine):
    change_config(mine, modules_to_save=["lm_head"])
    with pytest.raises(
        ModelError, match=r"lacks the weights of lm_head, which its modules_to_save names; save it again"
    ):
        adapters.load_adapter(base, mine)


def test_modules_that_the_base_does_not_have(base, mine):
    change_config(mine, target_modules=["query_key_value"])
    with pytest.raises(ModelError, match=r"does not fit the base .*query_key_value.*; set model_name to the base"):
        adapters.load_adapter(base, mine)


FORMS = {
    "bias": {"bias": "all"},
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "a head of its own": {"modules_to_save": ["lm_head"]},
    "a pattern of modules": {"target_modules": r".*\.0\.mlp\.(up|down)_proj"},
    "ranks by pattern": {
        "rank_pattern": {"layers.0.self_attn.q_proj": 8},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 32},
    },
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_forms_of_lora_that_work(base, tiny, probes, tmp_path, options):
    folder = make_adapter(tiny, tmp_path / "my-adapter", **options)
    found = parity.check(base, folder, probes, probes)
    assert found["differences"]["changes"] > 1e-3
    assert found["holds"] == {"reload": None, "batch_of_one": True, "merge": True}


def test_options_of_a_newer_peft_are_left_out_with_a_warning(base, mine):
    change_config(mine, option_of_a_later_release=True)
    with pytest.warns(UserWarning, match="option_of_a_later_release.*are ignored"):
        adapters.load_adapter(base, mine)


# --- its own tokenizer and chat template


def stored(base, tmp_path):
    folder = tmp_path / "stored"
    folder.mkdir()
    return folder, adapters.take(base, "my-adapter", tmp_path, folder)


def test_a_tokenizer_like_the_base_s_is_not_stored(base, tiny, mine, tmp_path):
    AutoTokenizer.from_pretrained(tiny).save_pretrained(mine)
    folder, notes = stored(base, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert "asked_with" not in notes
    assert adapters.asked_with(base, folder) is base


@pytest.mark.parametrize("whole", [True, False], ids=["with its tokenizer", "a template alone"])
def test_the_adapter_is_asked_with_its_own_template_and_the_base_is_not(base, tiny, mine, probes, tmp_path, whole):
    if whole:
        AutoTokenizer.from_pretrained(tiny).save_pretrained(mine)
    (mine / "chat_template.jinja").write_text(OTHER_TEMPLATE)
    own = generate.encode(base, probes[0])
    folder, notes = stored(base, tmp_path)
    assert notes["asked_with"] == "chat template"
    asked = adapters.asked_with(base, folder)
    assert base.tokenizer.decode(generate.encode(asked, probes[0])) == f"### {probes[0].question}\n### "
    assert generate.encode(base, probes[0]) == own
    assert asked.tokenizer.padding_side == "left"


def test_another_end_of_the_answer_is_another_tokenizer(base, tiny, mine, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(mine)
    folder, notes = stored(base, tmp_path)
    assert notes["asked_with"] == "tokenizer"
    assert adapters.asked_with(base, folder).tokenizer.eos_token == "<|endoftext|>"


def test_a_tokenizer_with_more_tokens_than_the_base_has_embeddings(base, tiny, mine, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens([f"<|new_{n}|>" for n in range(401 - len(tokenizer))])
    tokenizer.save_pretrained(mine)
    with pytest.raises(ModelError, match=r"its tokenizer has 401 tokens, but the base .* has 400 embeddings; add"):
        stored(base, tmp_path)


def test_a_damaged_tokenizer(base, tiny, mine, tmp_path):
    AutoTokenizer.from_pretrained(tiny).save_pretrained(mine)
    (mine / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"its tokenizer cannot be loaded \(.*\); restore or delete its files"):
        stored(base, tmp_path)


# --- the spec and its rows

WITH_ADAPTER = SPEC.replace('profile  = "nano"', 'profile  = "nano"\nadapter  = "my-adapter"')
SPLIT = 'split = {{ test_size = 0.25, stratify = "sentiment" }}\n'
ROWS = "train_rows = 96\n"
SPECS = {
    "training without rows": (SPEC, {SPLIT: ""}, "[data] split is missing, so there are no training rows; add train"),
    "training without a part": (
        SPEC,
        {SPLIT: 'split = {{ test = "test" }}\n'},
        "[data] split names no training part, so there are no training rows; add train",
    ),
    "a number of unknown rows": (WITH_ADAPTER, {SPLIT: ""}, "[data] train_rows selects training rows, but"),
    "twins of unknown rows": (
        WITH_ADAPTER,
        {SPLIT: "", ROWS: 'dedupe = "near"\n'},
        "[data] dedupe selects training rows",
    ),
}


@pytest.mark.parametrize(("text", "changes", "sentence"), SPECS.values(), ids=SPECS)
def test_training_rows_that_nobody_names(tmp_path, text, changes, sentence):
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(SpecError) as error:
        load_spec(write_spec(tmp_path, text.format(data="rows.jsonl", model="fixtures/none")))
    assert str(error.value).startswith(f"phase1/tiny.toml {sentence}")


def held_out(tmp_path, path, options=""):
    text = FINISHED.format(data=path, model="fixtures/none").replace("[model]", f"{options}\n[model]")
    spec = load_spec(write_spec(tmp_path, text))
    return load_examples(spec, load_task(spec), tmp_path)


def test_without_a_split_every_row_is_held_out(tmp_path, rows):
    write_rows(tmp_path / "rows.jsonl", rows)
    training, whole = held_out(tmp_path, "rows.jsonl")
    assert training == []
    assert len(whole) == len(rows)
    _, part = held_out(tmp_path, "rows.jsonl", "eval_rows = 40")
    assert part == whole[:40]
    assert len({e.reference for e in part}) == 3, "a random sample, not the first rows of a sorted file"


def test_of_a_folder_with_several_parts_the_spec_names_the_one_to_hold_out(tmp_path, rows):
    write_rows(tmp_path / "set" / "test.jsonl", rows[:50])
    assert len(held_out(tmp_path, "./set")[1]) == 50, "the only part"
    write_rows(tmp_path / "set" / "train.jsonl", rows[50:])
    with pytest.raises(DataError, match=r"set has the parts test, train; name the one to hold out in \[data\]"):
        held_out(tmp_path, "./set")
    training, examples = held_out(tmp_path, "./set", 'split = { test = "test" }')
    assert (len(training), len(examples)) == (0, 50)
    with pytest.raises(DataError, match="owner/set on the hub may have several parts; name the one to hold out"):
        held_out(tmp_path, "owner/set")
    with pytest.raises(DataError, match=r"is one file without the part test; .* or delete \[data\]\.split"):
        held_out(tmp_path, "./set/test.jsonl", 'split = { test = "test" }')


# --- from the spec to the report


@pytest.fixture
def owner(checkout, tiny, rows):
    """The folder of somebody with an adapter and rows of their own, and a spec of a few lines."""
    make_adapter(tiny, checkout.path / "my-adapter")
    data = write_rows(checkout.path / "mine.jsonl", rows[:60])
    write_spec(checkout.path, FINISHED.format(data=data, model=tiny))
    return checkout


def measure(checkout, *options):
    return checkout.runpytest_subprocess("benchmarks", "--prism-profile", "nano", *options)


def reports(checkout):
    latest = checkout.path / "reports" / "latest"
    return (latest / "report.md").read_text() + (latest / "report.html").read_text()


def test_a_finished_adapter_is_measured_without_a_word_on_its_training(owner):
    out = measure(owner)
    out.assert_outcomes(passed=1)
    out.stderr.no_fnmatch_line("*training*")
    assert "loading the adapter" in out.stderr.str() + out.stdout.str()
    found = results(owner)
    accuracy = next(record for record in found["records"] if record["metric"] == "accuracy")
    assert accuracy["n"] == 60
    assert accuracy["controls"].keys() == {"label_likelihood", "prior_corrected"}, "none that learns from training rows"
    assert list(found["cost"][0]["seconds"]) == ["baseline", "label likelihoods", "loading the adapter", "tuned"]
    page = reports(owner)
    for sentence in (
        "PRISM did not train the adapter my-adapter: the intervals describe it, not its recipe.",
        "Its training rows are unknown, so nothing was checked for leaks, or compared with what learns from rows.",
    ):
        assert page.count(sentence) == 2, "once in each report"
    for claim in ("training row ", "One training seed", "seed 42", "Training loss", "Leaks", "classical", "trained on"):
        assert claim not in page


@pytest.mark.usefixtures("new_interpreter")
def test_a_finished_adapter_is_measured_without_the_library_that_trains(owner, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    out = measure(owner, "-s")  # pytest captures what imports say
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in out.errlines if "import time:" in line}
    assert {"torch", "transformers", "peft"} <= imported
    assert not imported & {"trl", "datasets"}


def test_a_finished_adapter_is_accepted_compared_and_proposed_for(owner, tiny):
    (owner.path / ".gitignore").write_text(
        "home/\nrunpytest-*\nstdout\nstderr\nreports/runs/\nreports/latest\n__pycache__/\n"
    )
    ask_git(owner.path, "init", "-q")
    commit(owner.path, "an adapter")
    measure(owner).assert_outcomes(passed=1)
    accepted = prism(owner, "accept")
    assert accepted.returncode == 0, accepted.stderr
    make_adapter(tiny, owner.path / "my-adapter", seed=1)
    measure(owner).assert_outcomes(passed=1)
    assert len(results(owner)["cost"][0]["cached"]) == 2, "the answers of the base"
    page = reports(owner)
    assert "1 adapter and here 1. Question: do these adapters differ on other samples?" in page
    assert "finished.files.adapter" in page, "how the training side differs"
    compared = prism(owner, "compare", "reports/reference", "reports/latest")
    assert compared.returncode == 0, compared.stderr
    assert "accuracy" in compared.stdout
    proposed = prism(owner, "thresholds", "tiny")
    assert proposed.returncode == 0, proposed.stderr
    assert "# phase1/tiny: one adapter." in proposed.stdout


def test_rows_that_the_spec_names_are_its_claim_and_unused_tables_are_named(owner, tiny):
    text = WITH_ADAPTER.format(data="mine.jsonl", model=tiny).replace("gain = 0.9", "gain = -1.0")
    write_spec(owner.path, text.replace("train_rows = 96\neval_rows = 40\n", ""))
    measure(owner)
    page = reports(owner)
    assert "That it was trained on the 45 training rows of the split is the spec's claim." in page
    assert "Not used, as nothing was trained: [lora] and [sft]." in page
    assert "TF-IDF with logistic regression, trained on the split's 45 rows" in page
    assert "learning_rate" not in page


def test_an_adapter_s_own_template_is_used_and_reported(owner):
    (owner.path / "my-adapter" / "chat_template.jinja").write_text(OTHER_TEMPLATE)
    measure(owner).assert_outcomes(passed=1)
    sentence = "The tuned answers were asked for with the adapter's own chat template, which differs from the base's."
    assert sentence in reports(owner)
    (owner.path / "my-adapter" / "chat_template.jinja").unlink()
    measure(owner).assert_outcomes(passed=1)
    assert sentence not in reports(owner)
    assert len(results(owner)["cost"][0]["cached"]) == 2, "the base's answers are the same, the adapter's are not"


def test_an_unfit_adapter_is_refused_before_anything_is_measured(owner):
    change_weights(owner.path / "my-adapter", renamed)
    out = measure(owner)
    out.assert_outcomes(errors=1)
    out.stdout.fnmatch_lines(['*phase1/tiny.toml adapter = "my-adapter": *has no place for 8 of its weights*'])
    assert not list((owner.path / "home").glob("predictions/*/manifest.json"))


def test_the_adapter_named_by_its_folder_of_checkpoints(owner):
    checkpoints(owner.path / "my-adapter")
    out = measure(owner)
    out.assert_outcomes(errors=1)
    out.stdout.fnmatch_lines(["*but 2 adapters, the last in checkpoint-10; set adapter to that folder*"])
    assert not (owner.path / "home" / "predictions").exists()
