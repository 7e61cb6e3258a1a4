"""Ask a model: greedy answers, and the likelihood of each label. Both resume after their last finished batch.

Questions are batched by length under a token budget, longest first, so that padding stays small and a batch that is too
large for the memory shows at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from prism.data import Example, Prediction
from prism.errors import DataError
from prism.model import Base

ANSWERS = "predictions.jsonl"
LIKELIHOODS = "likelihoods.jsonl"
BATCH_TOKENS = {"cpu": 4_096, "cuda": 65_536}  # padded prompt and answer tokens in flight


def encode(base: Base, example: Example) -> list[int]:
    """The token ids of a question as the model's chat template renders it, ready for the answer."""
    encoded = base.tokenizer.apply_chat_template(
        [dict(message) for message in example.messages], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    room = base.spec.model.max_seq_length - base.spec.generate.get("max_new_tokens", 0)
    if len(encoded) > room:
        raise DataError(
            f"sample {example.id}: {len(encoded)} tokens, but [model].max_seq_length leaves {room} for the question; "
            f"raise it or shorten the row"
        )
    return encoded


def batches(encoded: Sequence[Sequence[int]], extra: int, budget: int) -> Iterator[list[int]]:
    """Indices in batches, longest first, of at most `budget` padded tokens with `extra` new ones each."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    start = 0
    while start < len(order):
        size = max(1, budget // (len(encoded[order[start]]) + extra))
        yield order[start : start + size]
        start += size


def pad(base: Base, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    padded = base.tokenizer.pad({"input_ids": [list(row) for row in rows]}, padding_side="left", return_tensors="pt")
    return {name: tensor.to(base.model.device) for name, tensor in padded.items() if name != "token_type_ids"}


@torch.no_grad()
def answers(
    base: Base, model: Any, examples: Sequence[Example], folder: Path, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Greedy answers to `folder`/predictions.jsonl, one line a sample, a batch at a time."""
    done = resume(folder / ANSWERS)
    advance(len(done))
    left = [example for example in examples if example.id not in done]
    encoded = [encode(base, example) for example in left]
    tokenizer = base.tokenizer
    config = GenerationConfig(
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted({tokenizer.eos_token_id, *_ends(model)}),
        **base.spec.generate,
    )
    new_tokens = base.spec.generate.get("max_new_tokens", 20)
    with (folder / ANSWERS).open("a", encoding="utf-8") as file:
        for batch in batches(encoded, new_tokens, BATCH_TOKENS[model.device.type]):
            prompt = pad(base, [encoded[i] for i in batch])
            produced = model.generate(**prompt, generation_config=config)[:, prompt["input_ids"].shape[1] :]
            for i, ids in zip(batch, produced.tolist()):
                length = next((n for n, token in enumerate(ids) if token in config.eos_token_id), None)
                kept = ids if length is None else ids[:length]
                text = tokenizer.decode(kept, skip_special_tokens=True)
                finish = "length" if length is None else "stop"
                line = asdict(Prediction(left[i].id, text, len(kept), finish))
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            advance(len(batch))


def _ends(model: Any) -> list[int]:
    """The end tokens that the model's own generation config names (Qwen has two)."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, (list, tuple)) else [ends]


@torch.no_grad()
def likelihoods(
    base: Base,
    model: Any,
    examples: Sequence[Example],
    labels: Sequence[str],
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Log-likelihood of each label as the whole answer, to `folder`/likelihoods.jsonl.

    The question is run once; its cache is repeated for the labels, whose tokens (with the end of the turn, so that no
    label wins by being another's beginning) are then scored in one pass.
    """
    done = resume(folder / LIKELIHOODS)
    advance(len(done))
    left = [example for example in examples if example.id not in done]
    encoded = [encode(base, example) for example in left]
    end = base.tokenizer.eos_token_id
    options = [base.tokenizer(label, add_special_tokens=False)["input_ids"] + [end] for label in labels]
    width = max(map(len, options))
    device = model.device
    tokens = torch.tensor([option + [end] * (width - len(option)) for option in options], device=device)
    counted = torch.tensor([[n < len(option) for n in range(width)] for option in options], device=device)
    with (folder / LIKELIHOODS).open("a", encoding="utf-8") as file:
        for batch in batches(encoded, width * len(labels), BATCH_TOKENS[device.type]):
            prompt = pad(base, [encoded[i] for i in batch])
            mask = prompt["attention_mask"]
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            asked = model(**prompt, position_ids=positions, use_cache=True, logits_to_keep=1)
            asked.past_key_values.batch_repeat_interleave(len(labels))
            repeated = tokens.repeat(len(batch), 1)
            after = (positions[:, -1:] + 1).repeat_interleave(len(labels), 0)
            told = model(
                input_ids=repeated[:, :-1],
                attention_mask=torch.cat(
                    [mask.repeat_interleave(len(labels), 0), torch.ones_like(repeated[:, :-1])], 1
                ),
                position_ids=after + torch.arange(width - 1, device=device),
                past_key_values=asked.past_key_values,
            )
            first = asked.logits[:, -1:].repeat_interleave(len(labels), 0)
            scores = torch.cat([first, told.logits], 1).float().log_softmax(-1)
            chosen = scores.gather(-1, repeated[..., None])[..., 0] * counted.repeat(len(batch), 1)
            for i, sums in zip(batch, chosen.sum(-1).view(len(batch), len(labels)).tolist()):
                line = {"id": left[i].id, "labels": dict(zip(labels, sums))}
                file.write(json.dumps(line) + "\n")
            file.flush()
            advance(len(batch))


def resume(path: Path) -> set[str]:
    """The ids already in a file of JSON lines; a last line that was cut off by a kill is taken away."""
    if not path.exists():
        return set()
    whole, ids = [], set()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            ids.add(json.loads(line)["id"])
        except ValueError:
            break
        whole.append(line + "\n")
    path.write_text("".join(whole), encoding="utf-8")
    return ids
