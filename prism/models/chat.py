"""How a model's chat template writes questions and answers. It is decided once, as the tokenizer is loaded.

Templates differ: some refuse a system turn, print today's date, open a thought, or end an answer with a token that is not
the tokenizer's end token. Training and asking both follow what is decided here, so that a model is asked as it was trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from prism.errors import ModelError, SpecError, first_line
from prism.models.bounds import require_bounded
from prism.models.identity import template_file
from prism.rows import Example
from prism.spec import Spec

# What templates raise, and what jinja2 does of their mistakes: an OverflowError of a range that is too long, a NameError
# of 1e999, a RecursionError of very many brackets.
RAISED = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NameError,
    RecursionError,
    TypeError,
    ValueError,
)
TODAY = date(
    2024, 7, 26
)  # in place of today's date, which would make one identity of two prompts; as Llama 3's default
STRFTIME_NOW = r"strftime_now\(\s*(['\"])(.*?)\1\s*\)"
# A conversation that shows what a template does. Answers begin with a letter, a digit and a word of one letter.
SYSTEM, USER, ANSWERS = "Weigh each word.", "How high is it?", ("neutral", "12.5 metres", "A fall")
PADDING = ("pad", "reserved", "unused")  # in the names of special tokens that no text contains, the best first
NOT_PADDING = ("image", "vision", "video", "audio")  # in the names of special tokens whose number a model counts

Message = dict[str, str]


@dataclass(frozen=True)
class Chat:
    """What one template does. `end` is the token that ends an answer, `opened` a thought that the prompt begins.

    If `apart`, tokens would merge across the border of prompt and answer, so each is tokenized by itself.
    """

    folded: bool
    end: int
    opened: str = ""
    apart: bool = False
    today: str = ""  # the day that the template prints; empty if it prints none

    def messages(self, example: Example) -> list[Message]:
        """The messages as the template takes them: without a system turn if it has none."""
        messages = [dict(message) for message in example.messages]
        return _fold(messages) if self.folded else messages

    def answer_ids(self, tokenizer: Any, messages: Sequence[Message], answer: str) -> list[int]:
        """The tokens that the template writes after a prompt: the answer, what stands before it, and its end."""
        conversation = [*messages, {"role": "assistant", "content": answer}]
        prompt = prompt_ids(tokenizer, messages)
        whole = tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
        if not self.apart and whole[: len(prompt)] == prompt:
            return list(whole[len(prompt) :])
        asked, text = _written(tokenizer, messages, True), _written(tokenizer, conversation, False)
        rest = text[len(asked) :] if text.startswith(asked) else text[text.rindex(answer) :]
        return list(tokenizer(rest, add_special_tokens=False)["input_ids"])

    def label_ids(self, tokenizer: Any, label: str) -> list[int]:
        """The tokens of a label as the whole answer, up to the token that ends it."""
        ids = self.answer_ids(tokenizer, [{"role": "user", "content": USER}], label)
        return ids[: ids.index(self.end) + 1] if self.end in ids else [*ids, self.end]

    @property
    def notes(self) -> dict[str, str]:
        """What the record says of the prompts, where it is not as the task writes them."""
        return ({"system": "folded"} if self.folded else {}) | ({"today": self.today} if self.today else {})


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The tokens of a prompt of text, up to where the answer begins."""
    return conversations_ids(tokenizer, [messages])[0]


def conversations_ids(
    tokenizer: Any, conversations: Sequence[Sequence[Message]], *, answered: bool = False
) -> list[list[int]]:
    """The tokens of many at once, for which a tokenizer has a thread a core: up to where the answer begins, or `answered`."""
    if not conversations:
        return []
    rendered = [list(messages) for messages in conversations]
    encoded = tokenizer.apply_chat_template(rendered, add_generation_prompt=not answered, return_dict=True)
    return [list(ids) for ids in encoded["input_ids"]]


def _fold(messages: Sequence[Message]) -> list[Message]:
    """The text of system turns before that of the first user turn, a blank line between."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    folded = [dict(message) for message in messages if message["role"] != "system"]
    for message in folded:
        if message["role"] == "user":
            message["content"] = "\n\n".join([*system, message["content"]])
            break
    return folded


def set_template(spec: Spec, words: Any, root: Path) -> str:
    """Give a tokenizer or processor the template of the spec, with its arguments and a fixed date; returns that date.

    Arguments become part of the template, because not every trainer passes them on. Raises ModelError if there is no
    template, SpecError if it does not read an argument, or computes how it prints today's date.
    """
    file = template_file(spec, root)
    published = words.chat_template
    if isinstance(published, dict):
        published = published.get("default")
    template = file.read_text(encoding="utf-8") if file else published
    name = spec.model.model_name
    if template is None:
        raise ModelError(f"{name}: the tokenizer has no chat template; use an instruction-tuned model, or add one")
    require_bounded(template, name)
    for key in spec.template:
        if not re.search(rf"\b{re.escape(key)}\b", template):
            raise SpecError(
                f"{spec.id}.toml [generate.template] {key}: the chat template of {name} does not read it; check its "
                f"spelling"
            )
    fixed = re.sub(STRFTIME_NOW, lambda found: json.dumps(TODAY.strftime(found[2])), template)
    if re.search(r"strftime_now\s*\(", fixed):
        raise SpecError(
            f"{spec.id}.toml [generate.template]: the chat template of {name} computes how it prints today's date, so it "
            f"cannot be fixed; name another template by [sft].chat_template_path"
        )
    # The newline after a block is not printed.
    given = "".join(f"{{% set {key} = {json.dumps(value)} %}}\n" for key, value in spec.template.items())
    if given + fixed != published:
        words.chat_template = given + fixed
    return TODAY.isoformat() if fixed != template else ""


def set_padding(tokenizer: Any, rows: int) -> None:
    """If the padding token is missing or the end token, pad with a special token that no text contains, if there is one.

    PRISM and TRL mask padding by length, so the end token does as well; Unsloth's collator masks it by its id. `rows` is
    the number of the model's embeddings, which are never resized.
    """
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return
    own = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if number < rows}
    names = [
        *(name for part in PADDING for name in own if part in name.lower()),
        *([tokenizer.unk_token] if tokenizer.unk_token in own else []),
    ]
    usable = [name for name in names if name != tokenizer.eos_token and not any(p in name for p in NOT_PADDING)]
    tokenizer.pad_token = usable[0] if usable else tokenizer.eos_token


def decide(spec: Spec, words: Any, tokenizer: Any, today: str) -> Chat:
    """Ask a template, set by `set_template`, what it does. `words` is the processor or the tokenizer.

    Raises ModelError if it cannot write a question and its answer, SpecError if a model that it trains would be asked
    after another text than it was trained after, or never learns to stop.
    """
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]
    try:
        folded = SYSTEM not in _written(words, turns, True)
    except RAISED:
        folded = True
    if folded:
        turns = _fold(turns)
    try:
        asked = _written(words, turns, True)
        trained = [_written(words, [*turns, {"role": "assistant", "content": answer}], False) for answer in ANSWERS]
    except RAISED as error:
        reason = first_line(error)
        raise ModelError(
            f"{spec.model.model_name}: the chat template cannot write a question and its answer ({reason}); name another "
            f"by [sft].chat_template_path"
        ) from error
    if USER not in asked or any(answer not in text for answer, text in zip(ANSWERS, trained)):
        raise ModelError(
            f"{spec.model.model_name}: the chat template leaves out the question or its answer; name another by "
            f"[sft].chat_template_path"
        )
    after = trained[0][trained[0].rindex(ANSWERS[0]) + len(ANSWERS[0]) :]
    known = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ends = [token for token in tokenizer(after, add_special_tokens=False)["input_ids"] if token in known]
    if not spec.adapter:
        _require_same_beginning(spec, asked, trained[0])
        if not ends and not spec.generate.get("stop_strings"):
            raise SpecError(
                f"{spec.id}.toml: the chat template of {spec.model.model_name} writes no end token after an answer, so a "
                f"model that it trains never stops; set [generate].stop_strings, or name another by "
                f"[sft].chat_template_path"
            )
    thought = re.search(r"<think>\s*$", asked)
    apart = words is tokenizer and any(_merged(tokenizer, asked, text) for text in trained)
    return Chat(folded, ends[0] if ends else tokenizer.eos_token_id, thought[0] if thought else "", apart, today)


def _written(words: Any, messages: Sequence[Message], ask: bool) -> str:
    """The text of a conversation, with the beginning of an answer if `ask`. Processors' templates read lists of parts."""
    conversation: list[dict[str, Any]] = [dict(message) for message in messages]
    if hasattr(words, "image_processor"):
        for message in conversation:
            message["content"] = [{"type": "text", "text": message["content"]}]
    text = str(words.apply_chat_template(conversation, tokenize=False, add_generation_prompt=ask))
    text.encode()  # a ValueError for half a surrogate pair, which no tokenizer takes
    return text


def _require_same_beginning(spec: Spec, asked: str, trained: str) -> None:
    if trained.startswith(asked):
        return
    common = next(n for n, (a, b) in enumerate(zip(asked + "\0", trained)) if a != b)
    raise SpecError(
        f"{spec.id}.toml [generate.template]: the chat template of {spec.model.model_name} begins an answer with "
        f"{asked[common:]!r} when it asks, but with {trained[common : trained.rindex(ANSWERS[0])]!r} in training; set its "
        f"arguments there (enable_thinking = false, if it has that), or name another by [sft].chat_template_path"
    )


def _merged(tokenizer: Any, asked: str, trained: str) -> bool:
    """Whether the tokens of a prompt are not those with which prompt and answer begin."""
    prompt, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, trained))
    return bool(whole[: len(prompt)] != prompt)
