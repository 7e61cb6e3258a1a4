"""Fixtures of PRISM's own tests: a tiny random-weight base, and a checkout of a few files that uses it.

The tiny base answers noise: it shows that things run, resume and fail well, and no quality is ever read off it.
"""

import json
import os
import shutil
from functools import partial
from pathlib import Path

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # read when the libraries are imported: no test reaches a hub
os.environ["OMP_NUM_THREADS"] = "1"  # tiny matrices: threads would only wait for each other

import pytest

from prism.devices import cuda_devices
from tests.forked import Forks

if not cuda_devices():
    os.environ["TRITON_INTERPRET"] = "1"  # read as triton is imported: the kernels run on a CPU

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parent.parent

SPEC = """
title    = "tiny"
task     = "financial_sentiment"
profile  = "nano"
seed     = 42

[data]
path  = "{data}"
split = {{ test_size = 0.25, stratify = "sentiment" }}
train_rows = 96
eval_rows = 40

[model]
model_name = "{model}"
max_seq_length = 128

[lora]
r = 4
lora_alpha = 8
target_modules = ["q_proj", "v_proj", "up_proj"]

[sft]
use_cpu = true
bf16 = false
num_train_epochs = 2
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
gradient_checkpointing = false
learning_rate = 1e-2

[generate]
max_new_tokens = 4

[gate.tier1]
accuracy        = {{ floor = 0.0, gain = 0.9 }}
unparsable_rate = {{ ceiling = 1.0 }}
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def make_tiny(folder: Path) -> Path:
    """A Qwen3 of two layers with random weights and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["neutral bullish bearish shares rose fell profit loss"] * 8, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vision(tiny, tmp_path_factory) -> Path:
    """A LLaVA with random weights: a SigLIP tower of two layers on 32 × 32 pixels, four image tokens, `tiny`'s text part."""
    import torch
    from transformers import (
        AutoConfig,
        AutoTokenizer,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
    )

    folder = tmp_path_factory.mktemp("tiny-vision")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image_pad|>"]})
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['content'] is string %}{{ m['content'] }}"
        "{% else %}{% for p in m['content'] %}{{ '<|image_pad|>' if p['type'] == 'image' else p['text'] }}{% endfor %}"
        "{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    text = AutoConfig.from_pretrained(tiny)
    text.vocab_size = 408
    tower = SiglipVisionConfig(
        image_size=32,
        patch_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vision_use_head=False,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=4,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=template,
        image_token="<|image_pad|>",
        num_additional_image_tokens=0,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    """160 rows in three classes, told apart by one word."""
    words = ["holds its meeting", "shares rise", "shares fall"]
    return [{"tweet": f"Company {n} {words[n % 3]} on day {n}", "sentiment": n % 3} for n in range(160)]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def forks():
    started = Forks()
    yield started
    started.close()


@pytest.fixture
def checkout(pytester, tiny, rows, monkeypatch, forks):
    """A folder with the real conftest, the real phase-1 benchmark and one spec on the tiny base, and a store of its own."""
    shutil.copy(ROOT / "conftest.py", pytester.path)
    (pytester.path / "benchmarks" / "specs" / "phase1").mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "test_phase1_financial_sentiment.py", pytester.path / "benchmarks")
    (pytester.path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:deepeval -p no:rerunfailures -p no:repeat -p no:asyncio -p no:anyio --strict-markers\n"
    )
    data = write_rows(pytester.path / "data" / "train.jsonl", rows)
    write_spec(pytester.path, SPEC.format(data=data, model=tiny))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PRISM_HOME", str(pytester.path / "home"))
    monkeypatch.delenv("COLUMNS", raising=False)  # lines are as long as where there is no terminal
    forked = partial(forks.popen, pytester.popen)
    monkeypatch.setattr(pytester, "popen", forked)
    return pytester


@pytest.fixture
def new_interpreter(checkout, monkeypatch):
    """The runs of a test import everything themselves."""
    monkeypatch.setattr(checkout, "popen", checkout.popen.args[0])


def replace_phase1(checkout, benchmark: str, spec: str) -> None:
    """Put another benchmark file, test_<phase>_<title>.py, and one spec of its phase in place of phase 1's."""
    shutil.rmtree(checkout.path / "benchmarks" / "specs" / "phase1")
    (checkout.path / "benchmarks" / "test_phase1_financial_sentiment.py").unlink()
    shutil.copy(ROOT / "benchmarks" / benchmark, checkout.path / "benchmarks")
    folder = checkout.path / "benchmarks" / "specs" / benchmark.split("_")[1]
    folder.mkdir()
    (folder / "tiny.toml").write_text(spec)


def only_phase(
    checkout,
    tiny: Path,
    phase: str,
    task: str,
    rows: list[dict],
    group: str,
    gate: str,
    new_tokens: int,
    options: dict[str, str] | None = None,
) -> None:
    """Put a phase and a spec on `rows`, split by `group`, in place of phase 1; `options` replaces lines of the spec.

    The tiny base says noise, but never an empty answer, which no judge is asked about: nothing but letters can be said.
    """
    data = write_rows(checkout.path / f"{phase}-rows" / "train.jsonl", rows)
    text = SPEC.format(data=data, model=tiny).replace("financial_sentiment", task)
    text = text.replace('stratify = "sentiment"', f'group = "{group}"').partition("[gate.tier1]")[0] + gate
    vocabulary = json.loads((tiny / "tokenizer.json").read_text())["model"]["vocab"]
    blank = [*range(max(vocabulary.values()) + 1, 400), 0, 1, 2] + [
        number for token, number in vocabulary.items() if not (token.isascii() and token.isalpha())
    ]
    said = f"max_new_tokens = {new_tokens}\nsuppress_tokens = {blank}"
    for old, new in ({"max_new_tokens = 4": said} | (options or {})).items():
        assert old in text
        text = text.replace(old, new)
    replace_phase1(checkout, f"test_{phase}_{task}.py", text)


def examples_of(spec, root: Path, data: Path | None = None, **options):
    """The training and the held-out examples of a spec."""
    from prism.rows.examples import load_examples
    from prism.tasks import load_task

    return load_examples(spec, load_task(spec), root, data, **options)


def results(checkout) -> dict:
    return json.loads((checkout.path / "reports" / "latest" / "results.json").read_text())


def write_spec(folder: Path, text: str, name: str = "tiny") -> Path:
    path = folder / "benchmarks" / "specs" / "phase1" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
