"""What only vision-language models need: images in messages, batches through the processor, checks of the rows.

Models with multimodal rotary positions (Qwen2-VL and later) compute their positions from the image grid, so nothing here
passes `position_ids`: plain ones move the logits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from prism.errors import DataError
from prism.rows import Example
from prism.rows.images import image_size

if TYPE_CHECKING:
    from prism.models.load import Base


def multimodal(base: Base, example: Example) -> list[dict[str, Any]]:
    """The messages with one placeholder for each image at the start of the first user turn, where TRL puts them."""
    left = [{"type": "image"}] * len(example.images)
    messages = []
    for message in base.chat.messages(example):
        parts: list[dict[str, Any]] = [{"type": "text", "text": message["content"]}]
        if message["role"] == "user":
            parts, left = [*left, *parts], []
        messages.append({"role": message["role"], "content": parts})
    return messages


def render(base: Base, example: Example) -> str:
    """The prompt as the model's chat template writes it, ready for the answer."""
    return base.processor.apply_chat_template(multimodal(base, example), tokenize=False, add_generation_prompt=True)


def inputs(base: Base, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """A batch for the model, padded on the left. Either every example has images or none has."""
    pictures = [[_opened(path) for path in example.images] for example in examples]
    batch = base.processor(
        text=[render(base, example) for example in examples],
        images=pictures if any(pictures) else None,
        padding=True,
        padding_side="left",
        add_special_tokens=False,  # the chat template has written them
        return_tensors="pt",
    )
    return {name: tensor.to(base.model.device) for name, tensor in batch.items() if name != "token_type_ids"}


def _opened(path: Any) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.convert("RGB")


def encode(base: Base, example: Example) -> list[int]:
    """The token ids of a prompt, image tokens included."""
    return inputs(base, [example])["input_ids"][0].tolist()


def lengths(base: Base, examples: Sequence[Example]) -> list[tuple[int, int]]:
    """Tokens of each prompt, image tokens included, and of each answer with its end.

    The number of image tokens depends on the images' sizes alone, so one prompt of each is processed with its images.
    """
    if not examples:
        return []
    texts = base.tokenizer([render(base, example) for example in examples], add_special_tokens=False)["input_ids"]
    answers = base.tokenizer([example.reference for example in examples], add_special_tokens=False)["input_ids"]
    further: dict[tuple[tuple[int, int], ...], int] = {}
    found = []
    for example, text, answer in zip(examples, texts, answers):
        sizes = tuple(map(image_size, example.images))
        if sizes not in further:
            further[sizes] = len(encode(base, example)) - len(text)
        found.append((len(text) + further[sizes], len(answer) + 2))
    return found


def pass_bytes(base: Base, examples: Sequence[Example]) -> int:
    """Bytes that the tower needs for the largest of these images in one pass; 0 without images.

    A Qwen2-VL-2B in bfloat16 needed 52 MB for 448 × 448 pixels, four times a block's widest tensors.
    """
    config = base.model.config.vision_config
    width = getattr(config, "embed_dim", None) or config.hidden_size
    inner = getattr(config, "intermediate_size", None) or int(config.mlp_ratio * width)
    sizes = [image_size(path) for example in examples for path in example.images]
    patches = max((across * down for across, down in sizes), default=0) // config.patch_size**2
    return 4 * patches * (width + inner) * base.model.dtype.itemsize


def require_plain(base: Base, examples: Sequence[Example]) -> None:
    """Raises DataError, naming the sample, if a text contains a special token, which the tokenizer would take for one.

    It ends the turn within the question, so that the model reads another conversation than the row says.
    """
    tokens = {str(token) for token in base.tokenizer.added_tokens_decoder.values() if token.special}
    tokens |= set(base.tokenizer.all_special_tokens)
    if base.processor:
        tokens |= {str(token) for token in (getattr(base.processor, "image_token", None), "<image>") if token}
    special = re.compile(
        "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token) or r"(?!)"
    )
    for example in examples:
        for text in (*(message["content"] for message in example.messages), example.reference):
            if found := special.search(text):
                raise DataError(
                    f"sample {example.id}: its text contains the special token {found[0]}; delete it from the row, or "
                    f"leave the row out by [data].without"
                )


def check(base: Base, examples: Sequence[Example]) -> None:
    """Raises DataError, naming the sample, for what a trainer or processor would take in silence, or stop at midway.

    A special token in a question ends the epoch early without an error; a window that cuts off the answer trains with
    loss 0 at every step.
    """
    require_plain(base, examples)
    window = base.spec.model.max_seq_length
    for example, (prompt, answer) in zip(examples, lengths(base, examples)):
        if prompt + answer > window:
            raise DataError(
                f"sample {example.id}: {prompt} tokens of prompt and {answer} of answer do not fit [model].max_seq_length "
                f"= {window}, so the answer would be cut off; raise it, or lower [image].size"
            )
