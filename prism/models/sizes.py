"""How many tokens questions and answers take, known from a tokenizer alone: what `prism init` sets the window by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism.errors import ModelError, first_line
from prism.rows import Example
from prism.store import read_json
from prism.store.sources import check_configs


@dataclass(frozen=True)
class Sizes:
    """Tokens of the longest question in the chat template, and of the longest answer, and the most that fit the model.

    `most` is None if config.json does not say.
    """

    question: int
    answer: int
    most: int | None


def sizes(folder: Path, name: str, examples: Sequence[Example]) -> Sizes:
    """The sizes by the tokenizer of a model's folder, called `name` in messages; without the tokens of pictures.

    Raises ModelError if there is no tokenizer, it has no chat template, or a configuration names code.
    """
    from transformers import AutoTokenizer

    check_configs(folder, name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  # a damaged tokenizer.json raises a bare Exception
        reason = first_line(error)
        raise ModelError(f"{name}: its tokenizer cannot be loaded ({reason}); restore its files") from None
    older = folder / "chat_template.json"  # of processors
    if tokenizer.chat_template is None and older.is_file():
        tokenizer.chat_template = read_json(older.read_text(encoding="utf-8")).get("chat_template")
    if tokenizer.chat_template is None:
        raise ModelError(f"{name}: the tokenizer has no chat template; use an instruction-tuned model, or add one")
    written = [[_message(message, bool(example.images)) for message in example.messages] for example in examples]
    asked: Any = tokenizer.apply_chat_template(written, add_generation_prompt=True, return_dict=True)
    said: Any = tokenizer([example.reference for example in examples], add_special_tokens=False)
    config = read_json((folder / "config.json").read_text(encoding="utf-8"))
    most = {**config, **config.get("text_config", {})}.get("max_position_embeddings")
    longest_question, longest_answer = (max(map(len, found["input_ids"])) for found in (asked, said))
    return Sizes(longest_question, longest_answer, most if isinstance(most, int) else None)


def _message(message: Mapping[str, str], in_parts: bool) -> dict[str, Any]:
    """A message as the model's template reads it: templates of processors read lists of parts."""
    content = message["content"]
    return {"role": message["role"], "content": [{"type": "text", "text": content}] if in_parts else content}
