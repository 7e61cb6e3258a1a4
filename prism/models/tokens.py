"""Training rows as TRL takes them, and how many tokens they have."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix
from typing import Any

from prism.models.load import Base
from prism.rows import Example

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
from datasets import Dataset, Image, List
from pyarrow import compute

from prism.models import vision, window


def dataset(base: Base, examples: Sequence[Example]) -> Dataset:
    """Tokens, and labels of those that count in the loss; or prompt and completion, and the paths of images.

    The latter where the libraries make tokens of them: Unsloth, a processor of images, a mask of what the assistant says.
    """
    unmarked = base.library == "transformers" and not base.spec.sft.get("assistant_only_loss")
    if base.processor is None and (unmarked or base.chat.apart):
        return _tokens(base, examples)
    rows: list[dict[str, Any]] = [
        {
            "prompt": base.chat.messages(example),
            "completion": [{"role": "assistant", "content": example.reference}],
        }
        for example in examples
    ]
    if not any(example.images for example in examples):
        return Dataset.from_list(rows)
    with_images = [row | {"images": [str(path) for path in e.images]} for row, e in zip(rows, examples)]
    return Dataset.from_list(with_images).cast_column("images", List(Image()))


def _tokens(base: Base, examples: Sequence[Example]) -> Dataset:
    """What TRL makes of the rows one by one. The completion begins where a prompt and the whole row differ.

    Where tokens would merge across that border, which would train another prompt than is asked, they are made apart.
    """
    prompts = window.ids(base, examples, answered=False)
    if base.chat.apart:
        after = [base.chat.answer_ids(base.tokenizer, base.chat.messages(e), e.reference) for e in examples]
        wholes = [prompt + answer for prompt, answer in zip(prompts, after, strict=True)]
    else:
        wholes = window.ids(base, examples, answered=True)
    labels = wholes
    if base.spec.sft.get("completion_only_loss", True):
        begun = [len(commonprefix(pair)) for pair in zip(prompts, wholes, strict=True)]
        labels = [[-100] * n + whole[n:] for n, whole in zip(begun, wholes, strict=True)]
    return Dataset.from_dict({"input_ids": wholes, "labels": labels})


def lengths(base: Base, rows: Any, examples: Sequence[Example]) -> tuple[list[int], int]:
    """The tokens of each row, image tokens included, and how many of all count in the loss."""
    if base.processor:
        known = vision.lengths(base, examples)  # the collator makes the tokens, so the rows have none
        return [prompt + answer for prompt, answer in known], sum(answer for _, answer in known)
    table = rows.with_format("arrow")[:]
    found = compute.list_value_length(table["input_ids"]).to_pylist()
    if "labels" in table.column_names:
        return found, compute.sum(compute.not_equal(compute.list_flatten(table["labels"]), -100)).as_py()
    if "completion_mask" in table.column_names:  # Unsloth leaves the labels to the collator
        return found, compute.sum(compute.list_flatten(table["completion_mask"])).as_py()
    return found, sum(found)
