"""Families of base models, each as a tiny one of its own transformers class with the quirks of its template and tokenizer.

Weights are random: a family loads, answers, is scored, trained, stored and merged here, or is refused in one sentence.
"""

import json
import shutil
from dataclasses import dataclass, field

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prism.errors import ModelError, SpecError
from prism.models import adapters, chat, cost, generate, layout, likelihoods, load, packing, parity, train
from prism.models.identity import adapter_identity, predictions_identity
from prism.models.lazy import LazyBase
from prism.progress import CONSOLE
from prism.report import tables
from prism.rows import Example, Prediction
from prism.rows.answers import ANSWERS, LIKELIHOODS, read_json_lines, read_predictions
from prism.spec import load_spec
from prism.store import digest
from prism.store.sources import base_identity
from prism.verdicts.record import Result
from tests.conftest import SPEC, write_spec

LABELS = ("neutral", "bullish", "bearish news")
GENERATION = "{% if add_generation_prompt %}"


def turns(begin: str, end: str, answer: str = "{{ m.content }}", ask: str = "", *, first: str = "") -> str:
    """A template: `begin` and `end` of each turn, where `m` is the message."""
    body = f"{{% if m.role == 'assistant' %}}{answer}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
    return f"{first}{{% for m in messages %}}{begin}{body}{end}{{% endfor %}}{GENERATION}{ask}{{% endif %}}"


CHATML = turns("{{ '<|im_start|>' + m.role + '\n' }}", "{{ '<|im_end|>\n' }}", ask="{{ '<|im_start|>assistant\n' }}")
EMPTY_THOUGHT = r"{{ '<think>\n\n</think>\n\n' }}"
QWEN3 = turns(
    "{{ '<|im_start|>' + m.role + '\n' }}",
    "{{ '<|im_end|>\n' }}",
    EMPTY_THOUGHT + "{{ m.content }}",
    "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    + EMPTY_THOUGHT
    + "{% endif %}",
)
OPEN_THOUGHT = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
LLAMA = turns(
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}",
    "<|eot_id|>",
    ask="{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    first="{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ 'Today: ' + date_string + '\n' }}",
)
ROLE = "{% if m.role == 'assistant' %}model{% else %}{{ m.role }}{% endif %}"
GEMMA = turns(
    "<start_of_turn>" + ROLE + "{{ '\n' }}",
    "{{ '<end_of_turn>\n' }}",
    "{{ m.content | trim }}",
    "{{ '<start_of_turn>model\n' }}",
    first="{{ bos_token }}",
)
GEMMA2 = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + GEMMA
PHI = (
    turns("<|{{ m.role }}|>", "<|end|>", ask="<|assistant|>")
    + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% elif m.role == 'system' %}{{ '[INST] ' + m.content + '\n\n' }}"
    "{% else %}{% if loop.first %}[INST] {% endif %}{{ m.content + '[/INST]' }}{% endif %}{% endfor %}"
)
GRANITE = turns(
    "<|start_of_role|>{{ m.role }}<|end_of_role|>",
    "{{ '<|end_of_text|>\n' }}",
    ask="<|start_of_role|>assistant<|end_of_role|>",
)
OLMO = turns(
    "{{ '<|' + m.role + '|>\n' }}",
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}",
    ask="{{ '<|assistant|>\n' }}",
    first="{{ bos_token }}",
)
DROPS_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
TRAILING_SPACE = turns("{{ '### ' + m.role + ': ' }}", "{{ '<|im_end|>\n' }}", ask="{{ '### assistant: ' }}")
NO_END = turns("{{ '### ' + m.role + ':\n' }}", "{{ '\n' }}", ask="{{ '### assistant:\n' }}")


@dataclass(frozen=True)
class Family:
    kind: str  # of transformers' classes
    template: str
    special: tuple[str, ...]
    named: dict[str, str]  # the tokenizer's special tokens
    ends: tuple[str, ...] = ()  # of the generation config
    config: dict = field(default_factory=dict)
    pad: str = ""  # the padding token that PRISM takes, if not the published one
    captured: bool = False  # whether the captured step on a GPU supports the class


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 16}
FAMILIES = {
    "qwen2.5": Family("Qwen2", CHATML, IM, QWEN, captured=True),
    "qwen3": Family("Qwen3", QWEN3, (*IM, "<think>", "</think>"), QWEN, captured=True),
    "llama-3.2": Family(
        "Llama",
        LLAMA,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ("<|eot_id|>",),
        pad="<|finetune_right_pad_id|>",
        captured=True,
    ),
    "smollm2": Family(
        "Llama",
        CHATML,
        IM,
        {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"},
        pad="<|endoftext|>",
        captured=True,
    ),
    "gemma-2": Family(
        "Gemma2",
        GEMMA2,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        ("<eos>", "<end_of_turn>"),
        SLIDING,
    ),
    "gemma-3": Family(
        "Gemma3",
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        (),  # its end of a turn is known from the template alone
        SLIDING,
        captured=True,
    ),
    "phi-4-mini": Family(
        "Phi3",
        PHI,
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        pad="<|endoftext|>",
    ),
    "mistral": Family(
        "Mistral",
        MISTRAL,
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        config={"sliding_window": 16},
        pad="<unk>",
    ),
    "granite": Family(
        "Granite",
        GRANITE,
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        {"eos_token": "<|end_of_text|>", "pad_token": "<|end_of_text|>"},
        pad="<|end_of_text|>",
    ),
    "olmo-2": Family(
        "Olmo2",
        OLMO,
        ("<|endoftext|>", "<|pad|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
    ),
    "falcon-3": Family(
        "Llama",
        OLMO.replace("{{ bos_token }}", ""),
        ("<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>"),
        {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
        captured=True,
    ),
    "trailing-space": Family("Qwen2", TRAILING_SPACE, IM, QWEN, captured=True),
    "drops-system": Family("Qwen2", DROPS_SYSTEM, IM, QWEN, captured=True),
}


def make_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(family.special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["a neutral answer, bullish bearish assistant:"] * 8, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **family.named)
    fast.chat_template = family.template
    return fast


def make(family: Family, folder) -> None:
    """A model folder of the family, as it is published: configuration, random weights, tokenizer and template."""
    tokenizer = make_tokenizer(family)
    text = "Text" if family.kind == "Gemma3" else ""
    config = getattr(transformers, f"{family.kind}{text}Config")(
        **{
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "pad_token_id": None,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "initializer_range": 0.2,
        }
        | family.config
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family.kind}ForCausalLM")(config)
    if family.ends:
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(family.ends))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def example(number: int, answer: str = "neutral") -> Example:
    question = f"Company {number} " + "reports again " * (number % 4) + "today"
    messages = ({"role": "system", "content": "Say the tone."}, {"role": "user", "content": question})
    return Example(str(number), messages, answer, str(number))


def spec_of(folder, tmp_path, generate_lines: str = "", **sft):
    text = SPEC.format(data="rows.jsonl", model=folder).replace(
        "max_new_tokens = 4", f"max_new_tokens = 6\n{generate_lines}"
    )
    text = text.replace('["q_proj", "v_proj", "up_proj"]', '"all-linear"')
    spec = load_spec(write_spec(tmp_path, text))
    return spec.model_copy(update={"sft": {**spec.sft, "max_steps": 3, **sft}})


def answered(base, model, examples, folder) -> list[Prediction]:
    folder.mkdir()
    generate.answers(base, model, examples, folder)
    return read_predictions(folder, examples)


def log_probabilities(base, asked: Example, label: str) -> list[float]:
    """What the model itself gives each token of a label, in one pass over prompt and label without padding."""
    prompt, rest = generate.encode(base, asked), base.chat.label_ids(base.tokenizer, label)
    ids = torch.tensor([prompt + rest], device=base.model.device)
    with torch.no_grad():
        logits = base.model(ids, attention_mask=torch.ones_like(ids)).logits[0].float().log_softmax(-1)
    return [logits[len(prompt) + n - 1, token].item() for n, token in enumerate(rest)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a family's model, made once."""
    folders = {}

    def find(name: str):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            make(FAMILIES[name], folders[name])
        return folders[name]

    return find


@pytest.fixture
def other(made, tmp_path):
    """A copy of a family's model with another template."""

    def copied(name: str, template: str):
        folder = shutil.copytree(made(name), tmp_path / "other")
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return copied


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_asked_trained_stored_and_merged(made, tmp_path, name):
    family, spec = FAMILIES[name], spec_of(made(name), tmp_path)
    training, held_out = [example(n, LABELS[n % 3]) for n in range(24)], [example(n) for n in range(30, 35)]
    base = load.load(spec, tmp_path)
    assert base.tokenizer.pad_token == family.pad or family.named["pad_token"] == base.tokenizer.pad_token
    assert (layout.unsupported(base.model) == "") == family.captured

    before = answered(base, base.model, held_out, tmp_path / "baseline")
    singly = [answered(base, base.model, [e], tmp_path / f"one-{e.id}")[0] for e in held_out[:3]]
    assert before[:3] == singly, "a batch of padded prompts answers like each prompt alone"
    likelihoods.likelihoods(base, base.model, held_out, LABELS, tmp_path)
    scored = {line["id"]: line["labels"] for line in read_json_lines(tmp_path / LIKELIHOODS)}
    for asked in held_out:
        for label in LABELS:
            assert scored[asked.id][label] == pytest.approx(sum(log_probabilities(base, asked, label)), abs=1e-3)

    folder = tmp_path / "adapter"
    notes = train.train(base, training, 42, folder)
    assert len(notes["loss"]) == 3
    found = parity.check(load.load(spec, tmp_path), folder, training, held_out)
    assert found["holds"] == {"reload": None, "batch_of_one": True, "merge": True}
    base = load.load(spec, tmp_path)
    tuned = adapters.load_adapter(base, folder)
    after = answered(base, tuned, held_out, tmp_path / "tuned")
    assert answered(base, tuned.merge_and_unload(), held_out, tmp_path / "merged") == after


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_trained_after_the_prompt_that_it_is_asked(made, tmp_path, monkeypatch, name):
    """The rows as the trainer's collator makes them: prompt, answer and end; no padding in the loss."""
    base = load.load(spec_of(made(name), tmp_path), tmp_path)
    batches = []

    class Seen(Exception):
        pass

    def look(trainer, **_):
        batches.append(trainer.data_collator([trainer.train_dataset[n] for n in range(4)]))
        raise Seen

    monkeypatch.setattr(train.SFTTrainer, "train", look)
    training = [example(n, LABELS[n % 3]) for n in range(4)]
    with pytest.raises(Seen):
        train.train(base, training, 42, tmp_path)
    (batch,) = batches
    for row, labels, mask, asked in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], training):
        prompt, used = generate.encode(base, asked), int(mask.sum())
        assert row[: len(prompt)].tolist() == prompt
        assert (labels[: len(prompt)] == -100).all()
        assert (labels[used:] == -100).all()
        counted = labels[labels != -100].tolist()
        assert counted == row[len(prompt) : used].tolist()
        assert base.chat.end in counted, "the end of the answer is learned"
        assert base.tokenizer.decode(counted, skip_special_tokens=True).strip().endswith(asked.reference)


def test_a_model_whose_padding_is_its_end_token_learns_to_stop(made, tmp_path):
    spec = spec_of(made("granite"), tmp_path, max_steps=40, learning_rate=2e-2)
    base = load.load(spec, tmp_path)
    assert base.tokenizer.pad_token_id == base.chat.end == base.tokenizer.eos_token_id
    train.train(base, [example(n, "bullish") for n in range(24)], 42, tmp_path / "adapter")
    held_out = [example(n) for n in range(40, 46)]
    found = answered(base, base.model, held_out, tmp_path / "many")
    assert [(said.answer, said.finish) for said in found] == [("bullish", "stop")] * 6
    assert found == [answered(base, base.model, [e], tmp_path / e.id)[0] for e in held_out]


def test_unsloth_needs_a_padding_token_that_is_not_the_end(made, tmp_path, monkeypatch):
    """Its collator leaves padding out of the loss by its id. What Unsloth loads is loaded here by transformers."""
    import sys
    import types

    def from_pretrained(model_name, **_):
        return transformers.AutoModelForCausalLM.from_pretrained(model_name), None

    fake = types.SimpleNamespace(FastLanguageModel=types.SimpleNamespace(from_pretrained=from_pretrained))
    monkeypatch.setitem(sys.modules, "unsloth", fake)
    settings = {"library": "unsloth", "device": "cpu", "dtype": "float32"}
    monkeypatch.setattr(load, "engine", lambda _: settings)
    with pytest.raises(ModelError, match="the padding token is the end token, which Unsloth leaves out of the loss"):
        load.load(spec_of(made("granite"), tmp_path), tmp_path)
    assert load.load(spec_of(made("smollm2"), tmp_path), tmp_path).tokenizer.pad_token == "<|endoftext|>"


def test_padding_is_no_token_that_a_model_counts():
    tokenizer = make_tokenizer(
        Family("Qwen2", CHATML, (*IM, "<|image_pad|>", "<|reserved_0|>"), {"eos_token": "<|im_end|>"})
    )
    chat.set_padding(tokenizer, 320)
    assert tokenizer.pad_token == "<|reserved_0|>"
    tokenizer = make_tokenizer(Family("Qwen2", CHATML, (*IM, "<|reserved_0|>"), {"eos_token": "<|im_end|>"}))
    chat.set_padding(tokenizer, 3)  # a model of three embeddings, which are not resized
    assert tokenizer.pad_token == "<|im_end|>"


@pytest.mark.parametrize("name", ["gemma-2", "drops-system"])
def test_a_system_turn_that_a_template_refuses_or_drops_is_folded_into_the_users(made, tmp_path, name):
    base = load.load(spec_of(made(name), tmp_path), tmp_path)
    text = base.tokenizer.decode(generate.encode(base, example(0)))
    assert "user\nSay the tone.\n\nCompany 0 today" in text
    (tmp_path / "answers").mkdir()
    assert generate.answers(base, base.model, [example(0)], tmp_path / "answers")["system"] == "folded"
    notes = train.train(base, [example(n) for n in range(8)], 42, tmp_path / "adapter")
    spent = cost.summary({"training, seed 42": notes | {"peak_memory_gib": 1.0}}, [])
    table = tables.cost([Result("phase1", "tiny", "tiny", "nano", (), {}, spent)])
    assert table is not None
    assert (table.headers[-1], table.rows[0][-1]) == ("system turn", "folded")


def test_a_system_turn_that_a_template_has_stays_one(made, tmp_path):
    base = load.load(spec_of(made("qwen2.5"), tmp_path), tmp_path)
    assert base.chat.notes == {}
    assert base.tokenizer.decode(generate.encode(base, example(0))).startswith("<|im_start|>system\nSay the tone.")


def test_a_thought_that_only_the_prompt_opens_is_refused(other, tmp_path):
    spec = spec_of(other("qwen2.5", OPEN_THOUGHT), tmp_path)
    with pytest.raises(
        SpecError, match=r"phase1/tiny\.toml \[generate\.template\]: .* with '<think>\\n' when it asks, but with '' in"
    ):
        load.load(spec, tmp_path)
    finished = load.load(spec.model_copy(update={"adapter": "./adapter"}), tmp_path)  # nothing is trained
    assert finished.chat.opened == "<think>\n"
    said = answered(finished, finished.model, [example(0)], tmp_path / "answers")[0]
    assert (said.answer, said.finish) == ("", "length"), "the thought that the prompt began did not end"
    assert next(read_json_lines(tmp_path / "answers" / ANSWERS))["answer"].startswith("<think>\n")


def test_arguments_of_the_template_reach_every_prompt(made, tmp_path):
    plain = spec_of(made("qwen3"), tmp_path)
    told = spec_of(made("qwen3"), tmp_path, "[generate.template]\nenable_thinking = false")
    thinks, answers_at_once = load.load(plain, tmp_path), load.load(told, tmp_path)
    assert not thinks.tokenizer.decode(generate.encode(thinks, example(0))).endswith("</think>\n\n")
    asked = generate.encode(answers_at_once, example(0))
    assert answers_at_once.tokenizer.decode(asked).endswith("assistant\n<think>\n\n</think>\n\n")
    generate.check(told)  # which GenerationConfig does not see
    answered(answers_at_once, answers_at_once.model, [example(0)], tmp_path / "answers")
    adapters = [digest(adapter_identity(spec, {}, [example(0)], 42, tmp_path)) for spec in (plain, told)]
    answers = [digest(predictions_identity(spec, {}, None, [example(0)], "answers")) for spec in (plain, told)]
    assert len({*adapters, *answers}) == 4
    assert "template" not in adapter_identity(plain, {}, [example(0)], 42, tmp_path)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            "[generate.template]\nenable_thinkin = false",
            r"\[generate\.template\] enable_thinkin: the chat template of .* does",
        ),
        (
            "[generate.template]\ntokenize = false",
            r"\[generate\.template\] tokenize: is no argument that a chat template reads",
        ),
        (
            "[generate.template]\nenable_thinking = [1]",
            r"enable_thinking = \[1\]: must be text, a number, true or false",
        ),
        ("template = 3", r"\[generate\] template = 3: must be a table, \[generate\.template\]"),
    ],
)
def test_arguments_that_a_template_cannot_have(made, tmp_path, lines, sentence):
    with pytest.raises(SpecError, match=sentence):
        load.load(spec_of(made("qwen3"), tmp_path, lines), tmp_path)


@pytest.mark.parametrize(
    ("stored", "finish", "read"),
    [
        ("neutral", "stop", ("neutral", "stop")),
        ("<think>\nIs it bullish?\n</think>\n\nneutral", "stop", ("neutral", "stop")),
        ("<think>\n\n</think>\n\nneutral", "stop", ("neutral", "stop")),
        ("<think>\nIs it bullish? Perhaps", "length", ("", "length")),
        ("<think> It stopped there", "stop", ("", "length")),
        ("Is it bullish?\n</think>\n\nneutral", "stop", ("neutral", "stop")),
        ("<think>a</think>neutral<think>b</think>", "stop", ("neutral", "stop")),
        ("<thinking>A vein?</thinking> left ventricle", "stop", ("left ventricle", "stop")),
        ("<THINK>\nright?\n</Think>\nleft", "stop", ("left", "stop")),
        ("<thought>a <reasoning>b</reasoning> c</thought>left", "stop", ("left", "stop")),
        ("<reasoning>It stopped there", "stop", ("", "length")),
        ("right?</Reasoning >left", "stop", ("left", "stop")),
        ("I think > left </thinker>", "stop", ("I think > left </thinker>", "stop")),
        ("  spaces stay ", "stop", ("  spaces stay ", "stop")),
    ],
)
def test_thoughts_are_no_part_of_an_answer_and_stay_in_its_file(tmp_path, stored, finish, read):
    line = json.dumps({"id": "0", "answer": stored, "tokens": 3, "finish": finish})
    (tmp_path / ANSWERS).write_text(line + "\n")
    said = read_predictions(tmp_path, [example(0)])[0]
    assert (said.answer, said.finish) == read
    assert (tmp_path / ANSWERS).read_text() == line + "\n"


def test_a_template_prints_the_same_day_on_every_day(made, tmp_path, monkeypatch):
    import datetime

    from transformers.utils import chat_template_utils

    texts, spec = [], spec_of(made("llama-3.2"), tmp_path)
    for day in (1, 2):

        class Today(datetime.datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return cls(2031, 5, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Today)
        base = load.load(spec, tmp_path)
        texts.append(base.tokenizer.decode(generate.encode(base, example(0))))
    assert texts[0] == texts[1]
    assert "Today: 26 Jul 2024\n" in texts[0]
    assert base.chat.notes == {"today": "2024-07-26"}
    given = spec_of(made("llama-3.2"), tmp_path, '[generate.template]\ndate_string = "1 May 2025"')
    base = load.load(given, tmp_path)
    assert "Today: 1 May 2025\n" in base.tokenizer.decode(generate.encode(base, example(0)))


def test_a_template_that_computes_how_it_prints_the_day_is_refused(other, tmp_path):
    template = "{% set how = '%d' + ' %b' %}{{ strftime_now(how) }}" + CHATML
    with pytest.raises(
        SpecError, match=r"\[generate\.template\]: the chat template of .* computes how it prints today's"
    ):
        load.load(spec_of(other("qwen2.5", template), tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("template", "error", "sentence"),
    [
        ("{% for m in messages %}", ModelError, "the chat template cannot write a question and its answer"),
        ("{{ raise_exception('no') }}", ModelError, r"cannot write a question and its answer \(no\)"),
        ("{% for n in range(100001) %}{% endfor %}", ModelError, "cannot write a question and its answer"),
        ("<|im_start|>", ModelError, "the chat template leaves out the question or its answer"),
        (NO_END, SpecError, r"writes no end token after an answer, so a model that it trains never stops"),
    ],
)
def test_a_template_of_no_use_is_refused_in_one_sentence(other, tmp_path, template, error, sentence):
    with pytest.raises(error, match=sentence) as found:
        load.load(spec_of(other("qwen2.5", template), tmp_path), tmp_path)
    assert "\n" not in str(found.value)


def test_a_template_without_an_end_token_needs_a_stop_string(other, tmp_path):
    base = load.load(spec_of(other("qwen2.5", NO_END), tmp_path, 'stop_strings = ["###"]'), tmp_path)
    assert base.chat.end == base.tokenizer.eos_token_id


def test_an_end_that_only_the_template_knows_ends_an_answer(made, tmp_path):
    """Gemma's end of a turn is not its tokenizer's end token; here its generation config does not name it either."""
    base = load.load(spec_of(made("gemma-3"), tmp_path), tmp_path)
    assert base.tokenizer.convert_ids_to_tokens(base.chat.end) == "<end_of_turn>"
    assert base.chat.label_ids(base.tokenizer, "neutral")[-1] == base.chat.end


def test_the_template_of_a_spec_is_the_roots_and_is_asked_with_it(made, tmp_path, monkeypatch):
    spec = spec_of(made("qwen2.5"), tmp_path, chat_template_path="mine.jinja")
    with pytest.raises(
        SpecError, match=r"\[sft\] chat_template_path = 'mine\.jinja': no \.jinja file of that name under"
    ):
        load.load(spec, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.jinja").write_text(CHATML.replace("im_end|>\n", "im_end|>elsewhere"))
    (tmp_path / "mine.jinja").write_text(TRAILING_SPACE)
    monkeypatch.chdir(tmp_path / "elsewhere")
    base = load.load(spec, tmp_path)
    assert base.tokenizer.decode(generate.encode(base, example(0))).endswith("### assistant: ")
    train.train(base, [example(n) for n in range(8)], 42, tmp_path / "adapter")
    assert base.tokenizer.chat_template == TRAILING_SPACE
    known = [LazyBase(spec, tmp_path, tmp_path, CONSOLE).identity["template"]]
    (tmp_path / "mine.jinja").write_text(CHATML)
    assert LazyBase(spec, tmp_path, tmp_path, CONSOLE).identity["template"] not in known


def test_a_folders_further_templates_are_part_of_its_identity(other, tmp_path):
    folder = other("qwen2.5", CHATML)
    before = base_identity(str(folder), tmp_path)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(CHATML)
    assert base_identity(str(folder), tmp_path) != before
    assert load.load(spec_of(folder, tmp_path), tmp_path).chat.end == 2


def test_a_processors_template_that_reads_parts_only(made, tiny_vision, tmp_path):
    processor = transformers.AutoProcessor.from_pretrained(tiny_vision)
    processor.chat_template = CHATML.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}")
    found = chat.decide(spec_of(made("qwen2.5"), tmp_path), processor, processor.tokenizer, "")
    assert (found.folded, found.end) == (False, processor.tokenizer.eos_token_id)


class Tuples(torch.nn.Module):
    """A model whose cache is a tuple of (key, value) a layer, as Unsloth's Llama has it, and takes one token a time."""

    def __init__(self, model):
        super().__init__()
        self.model, self.device = model, model.device

    def forward(self, input_ids, past_key_values=None, **options):
        if past_key_values is not None:
            raise AssertionError("a tuple is continued by one token at a time")
        found = self.model(input_ids, **options)
        if found.past_key_values is not None:
            found.past_key_values = tuple((layer.keys, layer.values) for layer in found.past_key_values.layers)
        return found


def test_likelihoods_without_a_cache_that_repeats(made, tmp_path):
    base = load.load(spec_of(made("llama-3.2"), tmp_path), tmp_path)
    held_out, found = [example(n) for n in range(5)], []
    for name, model in (("cache", base.model), ("tuples", Tuples(base.model))):
        (tmp_path / name).mkdir()
        likelihoods.likelihoods(base, model, held_out, LABELS, tmp_path / name)
        found.append({line["id"]: line["labels"] for line in read_json_lines(tmp_path / name / LIKELIHOODS)})
    assert found[0].keys() == found[1].keys() == {e.id for e in held_out}
    for sample, labels in found[0].items():
        assert found[1][sample] == pytest.approx(labels, abs=1e-4)


@pytest.mark.parametrize("kind", ["Mamba", "Lfm2"])
def test_likelihoods_of_a_model_with_another_state_than_keys(made, tmp_path, kind):
    """Mamba has no keys, LFM2 convolutions beside them; the likelihood of a label is that of one plain pass."""
    folder = shutil.copytree(made("qwen2.5"), tmp_path / "model")
    sizes: dict = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2}
    if kind == "Mamba":
        sizes |= {"state_size": 4}
    else:
        sizes |= {"layer_types": ["conv", "full_attention"], "num_attention_heads": 2, "num_key_value_heads": 1}
        sizes |= {"intermediate_size": 48, "conv_L_cache": 3}
    torch.manual_seed(0)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.save_pretrained(folder)
    assert (layout.cache_bytes(model) == 0) == (kind == "Mamba")
    base = load.load(spec_of(folder, tmp_path), tmp_path)
    held_out = [example(n) for n in range(3)]
    likelihoods.likelihoods(base, base.model, held_out, LABELS, tmp_path)
    for line, asked in zip(read_json_lines(tmp_path / LIKELIHOODS), sorted(held_out, key=lambda e: -int(e.id))):
        assert line["id"] == asked.id
        prompt = generate.encode(base, asked)
        for label in LABELS:
            rest = base.chat.label_ids(base.tokenizer, label)
            with torch.no_grad():
                logits = base.model(torch.tensor([prompt + rest])).logits[0].log_softmax(-1)
            summed = sum(logits[len(prompt) + n - 1, token].item() for n, token in enumerate(rest))
            assert line["labels"][label] == pytest.approx(summed, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("Llama", {}, ""),
        ("Gemma2", {}, "its attention caps logits"),
        ("Gemma3Text", {"sliding_window": 64}, "some layers attend to a window of 64 tokens only"),
        ("Gemma3Text", {"sliding_window": 128}, ""),
        ("Mistral", {"sliding_window": 64}, "some layers attend to a window of 64 tokens only"),
        ("Mistral", {"sliding_window": None}, ""),
        ("Qwen2", {"use_sliding_window": False, "sliding_window": 64}, ""),
    ],
)
def test_packed_rows_are_not_for_every_attention(kind, options, why):
    assert packing.unsupported(getattr(transformers, f"{kind}Config")(**options), 128) == why
