"""Answers as they are written, for a person who waits: one base stays loaded, and it answers with and without adapters.

What is measured comes from `prism.models.generate`; the answers here are the same ones: greedy, by `[generate]` alone.
Answers to one question are written side by side: the model computes a token of one, then a token of the next. A batch would
be faster by half, but rows of a batch are summed in another order than one alone, which changes near-tied answers.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from prism.errors import DataError, SpecError
from prism.models.load import Base
from prism.rows import Example
from prism.spec import Spec

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch
from peft import PeftModel
from torch.nn.attention import sdpa_kernel
from transformers import GenerationConfig, StoppingCriteriaList, TextStreamer

from prism.models import adapters, generate, reading, vision
from prism.models.chat import prompt_ids


@dataclass(frozen=True)
class Said:
    """An answer so far: its text, its tokens without the one that ends it, seconds since the question, to the first token.

    `first` is None while there is none; `tokens` count ahead of the text, of which whole words are shown.
    """

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    first: float | None = None
    finished: bool = False


@dataclass
class _Voice:
    """One answer while it is written, and what its model is asked."""

    base: Base
    adapter: Path | None
    prompt: dict[str, torch.Tensor]
    config: GenerationConfig
    text: str  # so far, in whole words
    produced: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # seconds from the question to each token
    given_up: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None

    @property
    def whole(self) -> str:
        """The text of all tokens, the last word included."""
        length = next((n for n, token in enumerate(self.produced) if token in self.config.eos_token_id), None)
        decoded = self.base.tokenizer.decode(self.produced[:length], skip_special_tokens=True)
        return self.base.chat.opened + str(decoded)

    def said(self, text: str, seconds: float, finished: bool = False) -> Said:
        """The answer up to the first of the spec's stop strings."""
        tokens = [token for token in self.produced if token not in self.config.eos_token_id]
        text = _before(text, self.base.spec.generate.get("stop_strings", []))
        return Said(text, len(tokens), seconds, self.times[0] if self.times else None, finished)


class _Words(TextStreamer):
    """Hands on the words of an answer, each when it is whole."""

    def __init__(self, tokenizer: Any, hand_on: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.hand_on = hand_on

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.hand_on(text)


class _Turns:
    """Lets one of several threads work at a time, in the order in which they entered, again and again."""

    def __init__(self) -> None:
        self.order: deque[int] = deque()
        self.changed = threading.Condition()

    def enter(self, who: int) -> None:
        with self.changed:
            self.order.append(who)

    def wait(self, who: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.order[0] == who)

    def pass_on(self, who: int) -> None:
        """Let the others work, and wait for the next turn."""
        with self.changed:
            self.order.rotate(-1)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.order[0] == who)

    def leave(self, who: int) -> None:
        with self.changed:
            self.order.remove(who)
            self.changed.notify_all()


class Voices:
    """A loaded base and the adapters that were worn on it; one question is answered at a time, by all who are asked it."""

    def __init__(self, base: Base) -> None:
        self.base, self.model = base, base.model
        ends = base.model.generation_config.eos_token_id
        self.ends = [] if ends is None else list(ends) if isinstance(ends, list | tuple) else [ends]
        # `generate` completes its options from the model's own, which for Qwen2.5 include a repetition penalty.
        base.model.generation_config = GenerationConfig()
        self.turn = threading.Lock()  # of a question

    def require_fit(self, folder: Path) -> None:
        """Raise ModelError if an adapter is of another base, damaged, or not loaded as a whole.

        Only before an adapter is worn: the check loads it on the plain base, and takes it off.
        """
        with warnings.catch_warnings(action="ignore"):  # PEFT lists every weight that does not fit; the error says it
            self.model = self.base.model = adapters.load_adapter(self.base, folder).unload()

    def ask(self, spec: Spec, example: Example, asked: Sequence[Path | None]) -> Iterator[tuple[Said, ...]]:
        """The answers to one example of those who are `asked`: adapters' folders, and None for the base.

        All are given again after each token of one, and once at the end of each.
        Raises DataError for a question that the model cannot be asked, SpecError for answers by beam search.
        """
        if spec.generate.get("num_beams", 1) > 1:
            raise SpecError(
                f"{spec.id}.toml [generate] num_beams: a beam's answer is known at its end alone; delete it"
            )
        voices = [self._voice(spec, example, adapter) for adapter in asked]
        news: SimpleQueue[tuple[int, str | None]] = SimpleQueue()  # who said which words; None at the end
        turns, started = _Turns(), time.perf_counter()

        def speak(n: int, voice: _Voice) -> None:
            width = voice.prompt["input_ids"].shape[1]

            def observed(ids: torch.Tensor, _: Any) -> torch.Tensor:
                voice.produced = ids[0, width:].tolist()
                voice.times.append(time.perf_counter() - started)
                turns.pass_on(n)
                self._wear(voice.adapter)
                return torch.full((1,), voice.given_up.is_set(), device=ids.device)

            try:
                turns.wait(n)
                self._wear(voice.adapter)
                options = {
                    "streamer": _Words(voice.base.tokenizer, lambda words: news.put((n, words))),
                    "stopping_criteria": StoppingCriteriaList([observed]),
                }
                if not voice.given_up.is_set():
                    self.model.generate(**voice.prompt, generation_config=voice.config, **options)
            except BaseException as error:  # noqa: BLE001  # raised again where the answer is read
                voice.failure = error
            finally:
                turns.leave(n)
                news.put((n, None))

        def answer_all() -> None:
            with self.turn, sdpa_kernel(generate.ATTENTION):
                threads = [threading.Thread(target=speak, args=one, daemon=True) for one in enumerate(voices)]
                for n, thread in enumerate(threads):
                    turns.enter(n)
                    thread.start()
                    if self.base.library == "unsloth":  # keeps what was asked in the model, so it answers one by one
                        thread.join()
                for thread in threads:
                    thread.join()

        answering = threading.Thread(target=answer_all, daemon=True)
        answering.start()
        ended: dict[int, Said] = {}
        try:
            while len(ended) < len(voices):
                n, words = news.get()
                voice = voices[n]
                if words is not None:
                    voice.text += words
                elif voice.failure:
                    raise voice.failure
                else:
                    ended[n] = voice.said(voice.whole, voice.times[-1], finished=True)
                seconds = time.perf_counter() - started
                said = tuple(ended.get(n) or voice.said(voice.text, seconds) for n, voice in enumerate(voices))
                if words is not None and said[n].text != voice.text:
                    voice.given_up.set()
                yield said
        finally:
            for voice in voices:
                voice.given_up.set()
            answering.join()

    def _voice(self, spec: Spec, example: Example, adapter: Path | None) -> _Voice:
        base = replace(self.base, spec=spec)
        if adapter is not None:
            base = adapters.asked_with(base, adapter)
        config = GenerationConfig(
            do_sample=False,
            pad_token_id=base.tokenizer.pad_token_id,
            eos_token_id=sorted({base.tokenizer.eos_token_id, base.chat.end, *self.ends}),
            **{name: value for name, value in spec.generate.items() if name not in ("stop_strings", "template")},
        )
        return _Voice(base, adapter, self._encoded(base, example), config, base.chat.opened)

    def _encoded(self, base: Base, example: Example) -> dict[str, torch.Tensor]:
        special = {*base.tokenizer.all_special_tokens, getattr(base.processor, "image_token", None) or "<|image_pad|>"}
        if found := next((token for token in sorted(special) if token in example.question), None):
            raise DataError(f"the question contains {found}, which the model reads as a command; delete it")
        if base.processor:
            prompt = vision.inputs(base, [example])
        else:
            prompt = reading.pad(base, [prompt_ids(base.tokenizer, base.chat.messages(example))])
        room = base.spec.model.max_seq_length - base.spec.generate.get("max_new_tokens", 0)
        if (tokens := prompt["input_ids"].shape[1]) > room:
            raise DataError(
                f"the question has {tokens:,} tokens with its prompt, but [model].max_seq_length leaves {room:,} for it; "
                f"shorten it"
            )
        return prompt

    def _wear(self, adapter: Path | None) -> None:
        """Switch one adapter on, or all of them off."""
        if adapter is None:
            if isinstance(self.model, PeftModel):
                tuner: Any = self.model.base_model
                tuner.disable_adapter_layers()
            return
        if not isinstance(self.model, PeftModel):
            self.model = PeftModel.from_pretrained(self.base.model, str(adapter), adapter_name=adapter.name).eval()
        elif adapter.name not in self.model.peft_config:
            self.model.load_adapter(str(adapter), adapter_name=adapter.name)
            self.model.eval()
        tuner = self.model.base_model
        tuner.enable_adapter_layers()
        if self.model.active_adapter != adapter.name:
            self.model.set_adapter(adapter.name)


def _before(text: str, stops: Sequence[str]) -> str:
    """The text before the first of `stops`."""
    return text[: min([text.index(stop) for stop in stops if stop in text], default=len(text))]
