"""A vision-language model from rows to report, on a tiny LLaVA of random weights: what runs, never how well."""

import json

import numpy
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from prism.errors import DataError, ModelError, SpecError
from prism.spec import load_spec
from tests.conftest import SPEC, examples_of, replace_phase1, results, write_rows
from tests.loopback import Loopback

GATE = """
[gate.tier1]
closed_accuracy = { floor = 0.0 }
visual_gain     = { gain = 0.9 }
"""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """48 pictures of one colour in noise, each with a closed and an open question."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for n in range(48):
        colour = ("red", "green", "blue")[n % 3]
        noise = numpy.random.default_rng(n).integers(0, 90, (40, 40, 3), dtype="uint8")
        noise[..., n % 3] += 150
        Image.fromarray(noise).save(folder / f"{n}.png")
        shared = {"image": f"{n}.png", "organ": ("CHEST", "HEAD")[n % 2]}
        rows.append(
            {**shared, "question": "Is it red?", "answer": ("no", "yes")[colour == "red"], "question_type": "PRES"}
        )
        rows.append({**shared, "question": "Which colour?", "answer": colour, "question_type": "COLOR"})
    write_rows(folder / "train.jsonl", rows)
    return folder


def spec_text(tiny_vision, pictures, placement='"all"', gate=GATE):
    text = SPEC.format(data=pictures, model=tiny_vision).replace("financial_sentiment", "medical_vqa")
    text = text.replace('stratify = "sentiment"', 'group = "image"').partition("[gate.tier1]")[0]
    text = text.replace('target_modules = ["q_proj", "v_proj", "up_proj"]\n', "")
    return text.replace("[lora]", f"[image]\nsize = 32\n\n[lora]\nplacement = {placement}") + gate


@pytest.fixture
def spec_file(tmp_path, tiny_vision, pictures):
    path = tmp_path / "phase5" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(spec_text(tiny_vision, pictures))
    return path


def change(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def loaded(spec_file, tmp_path):
    from prism.models import load

    spec = load_spec(spec_file)
    return load.load(spec, tmp_path), *examples_of(spec, tmp_path, pictures=tmp_path / "store")


@pytest.mark.usefixtures("new_interpreter")
def test_a_run_asks_again_with_other_pictures_and_gates_what_needs_the_right_one(checkout, tiny_vision, pictures):
    replace_phase1(checkout, "test_phase5_medical_vqa.py", spec_text(tiny_vision, pictures))
    heavy = "import sys\ndef pytest_unconfigure(): print('heavy:', sorted({'torch', 'sklearn'} & set(sys.modules)))\n"
    (checkout.path / "conftest.py").write_text((checkout.path / "conftest.py").read_text() + heavy)
    out = checkout.runpytest_subprocess("benchmarks", "-m", "phase5", "--prism-profile", "nano")
    out.assert_outcomes(passed=1, failed=1)
    table = results(checkout)
    records = {record["metric"]: record for record in table["records"]}
    names = {"same_kind_picture", "other_picture", "blank_picture", "without_picture", "most_frequent"}
    assert records["closed_accuracy"]["controls"].keys() == names
    hardest = max(control["value"] for control in records["closed_accuracy"]["controls"].values())
    assert records["visual_gain"]["baseline"]["value"] == hardest
    assert records["visual_gain"]["against"] in names
    assert records["closed_accuracy"]["groups"] == 12
    notes = table["specs"][0]["details"]["training"]["42"]
    assert set(notes["moved"]) == {"tower", "projector", "language"}
    assert all(trained > 0 for _, trained in notes["moved"].values())
    assert notes["images"] == 72 * 2, "in each of two epochs"
    again = checkout.runpytest_subprocess("benchmarks", "-m", "phase5", "--prism-profile", "nano")
    again.stdout.fnmatch_lines(["heavy: [[][]]"])
    assert results(checkout)["records"] == table["records"]
    with Loopback() as server:
        checkout.runpytest_subprocess("benchmarks", "-m", "phase5", "--prism-judge", server.judge)
        assert server.asked.total()
    judged = next(record for record in results(checkout)["records"] if record["tier"] == "tier3")
    assert judged["metric"] == "Medical Correctness [GEval]"
    assert judged["n"] + judged["unscored"] == records["open_recall"]["n"], "the judge is asked about open answers"


def test_loss_is_taken_on_the_answer_alone(spec_file, tmp_path):
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from prism.models import tokens, vision

    base, training, _ = loaded(spec_file, tmp_path)
    collate = DataCollatorForVisionLanguageModeling(base.processor, completion_only_loss=True)
    rows = tokens.dataset(base, training[:4])
    batch = collate([rows[i] for i in range(4)])
    for row, example in zip(batch["labels"], training[:4]):
        assert base.tokenizer.decode(row[row != -100]).strip() == example.reference + "<|im_end|>"
    prompt = batch["input_ids"][0].tolist()
    assert prompt[: len(vision.encode(base, training[0]))] == vision.encode(base, training[0]), "asked as trained"
    assert vision.lengths(base, training[:1])[0][0] == len(vision.encode(base, training[0]))


def test_parity_and_answers_do_not_depend_on_the_batch(spec_file, tmp_path):
    from prism.models import generate, parity, train
    from prism.rows.answers import read_predictions

    base, training, held_out = loaded(spec_file, tmp_path)
    folder = tmp_path / "adapter"
    notes = train.train(base, training, 42, folder)
    assert notes["images"] == base.spec.sft["num_train_epochs"] * len(training), "each epoch reads them again"
    found = parity.check(base, folder, training, held_out)
    assert all(found["holds"].values())
    base, _, _ = loaded(spec_file, tmp_path)
    from dataclasses import replace

    mixed = [*held_out[:6], *(replace(e, id=f"{e.id}/none", images=()) for e in held_out[:3])]
    (tmp_path / "many").mkdir()
    notes = generate.answers(base, base.model, mixed, tmp_path / "many")
    assert notes["images"] == 6
    one_by_one = []
    for n, example in enumerate(mixed):
        (tmp_path / str(n)).mkdir()
        generate.answers(base, base.model, [example], tmp_path / str(n))
        one_by_one += read_predictions(tmp_path / str(n), [example])
    assert read_predictions(tmp_path / "many", mixed) == one_by_one


def test_a_finished_adapter_is_asked_with_its_own_template(spec_file, tmp_path):
    from prism.models import adapters, load, parity, vision

    base, training, held_out = loaded(spec_file, tmp_path)
    source, folder = tmp_path / "mine", tmp_path / "stored"
    folder.mkdir()
    load.add_adapter(base, 42).save_pretrained(source)
    weights = load_file(source / "adapter_model.safetensors")
    save_file({key: weight + 0.1 for key, weight in weights.items()}, source / "adapter_model.safetensors")
    base, _, _ = loaded(spec_file, tmp_path)
    own = base.processor.chat_template.replace("assistant\\n", "answer:\\n")
    assert own != base.processor.chat_template
    base.processor.tokenizer.save_pretrained(source)
    (source / "chat_template.jinja").write_text(own)
    assert adapters.take(base, "mine", tmp_path, folder)["asked_with"] == "chat template"
    asked = adapters.asked_with(base, folder)
    assert vision.render(asked, training[0]).endswith("answer:\n")
    assert vision.render(base, training[0]).endswith("assistant\n")
    assert parity.check(base, folder, training[:2], held_out)["holds"]["merge"] is True


@pytest.mark.parametrize("text", ["Is <|image_pad|> red?", "Is it <|im_end|> red?", "What is in <image>?"])
def test_a_special_token_in_a_question_is_refused_with_its_sample(spec_file, tmp_path, text):
    from dataclasses import replace

    from prism.models import vision

    base, training, _ = loaded(spec_file, tmp_path)
    bad = replace(training[1], messages=({"role": "user", "content": text},))
    with pytest.raises(DataError, match=rf"sample {bad.id}: its text contains the special token <"):
        vision.check(base, [training[0], bad])


def test_a_window_that_cuts_the_answer_off_is_refused_before_training(spec_file, tmp_path):
    from prism.models import vision

    change(spec_file, "max_seq_length = 128", "max_seq_length = 24")
    base, training, held_out = loaded(spec_file, tmp_path)
    with pytest.raises(DataError, match=r"tokens of prompt and \d+ of answer do not fit \[model\].max_seq_length = 24"):
        vision.check(base, [*training, *held_out])


@pytest.mark.parametrize(
    ("placement", "parts"),
    [('"language"', {"language"}), ('"tower"', {"tower"}), ('["projector", "tower"]', {"projector", "tower"})],
)
def test_placement_reaches_the_parts_that_it_names(spec_file, tmp_path, placement, parts):
    from prism.models import anatomy, load

    change(spec_file, 'placement = "all"', f"placement = {placement}")
    base, _, _ = loaded(spec_file, tmp_path)
    model = load.add_adapter(base, 42)
    assert anatomy.moved(model).keys() == parts
    with pytest.raises(ModelError, match=r"adapters in the \w+ was trained"):
        anatomy.require_moved(model, "phase5/tiny")


@pytest.mark.parametrize(
    ("placement", "names", "sentence"),
    [
        ('"projector"', '["q_proj"]', r"none of target_modules is in the projector of LlavaForConditionalGeneration"),
        ('"eyes"', '"all-linear"', r"must be all or some of tower, projector, language"),
    ],
)
def test_a_placement_that_reaches_nothing_is_refused(spec_file, tmp_path, placement, names, sentence):
    from prism.models import load

    change(spec_file, 'placement = "all"', f"placement = {placement}\ntarget_modules = {names}")
    base, _, _ = loaded(spec_file, tmp_path)
    with pytest.raises(SpecError, match=sentence):
        load.add_adapter(base, 42)


def qwen(family):
    """A Qwen2-VL or Qwen2.5-VL of two layers and random weights."""
    import transformers

    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 2, "vocab_size": 200, "bos_token_id": None, "eos_token_id": None}
    text |= {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2}
    vision |= {"embed_dim": 16} if family == "Qwen2VL" else {"out_hidden_size": 16, "intermediate_size": 32}
    config = getattr(transformers, f"{family}Config")(text_config=text, vision_config=vision)
    return getattr(transformers, f"{family}ForConditionalGeneration")(config)


@pytest.mark.parametrize(
    ("family", "reached"), [("Qwen2VL", set()), ("Qwen2_5_VL", {"gate_proj", "up_proj", "down_proj"})]
)
def test_the_published_names_reach_one_tower_and_not_another(family, reached):
    from prism.models import anatomy

    model = qwen(family)
    counts = anatomy.parameters(model)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert anatomy.visual_tokens(model.config, 448, 448) == 256
    every = {part: anatomy.placed(model, part, "all-linear") for part in anatomy.PARTS}
    assert all("visual.merger." in name for name in every["projector"]), "the merger lies inside the tower"
    assert sum(map(len, every.values())) == len(set().union(*every.values()))
    seven = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    if reached:
        assert {name.rpartition(".")[2] for name in anatomy.placed(model, "tower", seven)} == reached
    else:
        with pytest.raises(SpecError, match=r"none of target_modules is in the tower of Qwen2VLForConditional"):
            anatomy.placed(model, "tower", seven)
    assert len(anatomy.placed(model, "language", seven)) == 14


def test_a_model_of_text_is_no_vision_model(spec_file, tmp_path, tiny, tiny_vision):
    from prism.models import load

    change(spec_file, str(tiny_vision), str(tiny))
    with pytest.raises(ModelError, match=r"cannot be loaded|has no image processor"):
        load.load(load_spec(spec_file), tmp_path)


def test_parts_tokens_and_attention(spec_file, tmp_path):
    from prism.models import anatomy, vision

    base, training, _ = loaded(spec_file, tmp_path)
    counts = anatomy.parameters(base.model)
    assert sum(counts.values()) == sum(p.numel() for p in base.model.parameters())
    assert all(counts[part] > 0 for part in anatomy.PARTS)
    token = base.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert vision.encode(base, training[0]).count(token) == anatomy.visual_tokens(base.model.config, 32, 32) == 4
    by_layer, by_token = anatomy.attention_on_image(base.model, vision.inputs(base, training[:1]), token)
    assert len(by_layer) == 2
    assert len(by_token) == 4
    assert all(0 < mass < 1 for mass in by_layer)
    assert sum(by_token) == pytest.approx(sum(by_layer) / 2, abs=1e-5)
    with anatomy.timed(base.model) as seconds:
        base.model(**vision.inputs(base, training[:2]))
    assert all(taken > 0 for taken in seconds.values())
    json.dumps(seconds)


@pytest.mark.slow
def test_the_study_of_an_architecture_is_a_section_of_the_report(checkout, tiny_vision, pictures):
    gate = "\n[gate.tier1]\nclosed_accuracy = { floor = 0.0 }\n"
    replace_phase1(checkout, "test_phase4_architecture.py", spec_text(tiny_vision, pictures, gate=gate))
    out = checkout.runpytest_subprocess("benchmarks", "-m", "phase4", "--prism-profile", "nano")
    outcomes = out.parseoutcomes()
    assert outcomes["passed"] >= 8, out.stdout.str()  # a base of noise may not mind a blank picture
    study = results(checkout)["specs"][0]["details"]["study"]
    assert [row["placement"] for row in study["placements"]] == ["language", "projector", "tower", "all"]
    trainable = {row["placement"]: row["trainable"] for row in study["placements"]}
    assert trainable["all"] == sum(trainable[part] for part in ("language", "projector", "tower"))
    assert {row["counted"] for row in study["anatomy"]["tokens"]} == {4}
    reports = checkout.path / "reports" / "latest"
    page = (reports / "report.html").read_text()
    for words in ("How the model is built", "Where LoRA is placed", "Attention on the picture", "Visual tokens"):
        assert words in page
    assert page.count('src="data:image/jpeg;base64,') > 4
    assert 'src="http' not in page
    assert "Where LoRA is placed" in (reports / "report.md").read_text()
