"""Answers as they are written, for a person who waits: one base stays loaded, adapters are switched on it.

What is measured comes from `prism.models.generate`; the answers here are the same ones: greedy, by `[generate]` alone.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
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
from transformers import GenerationConfig, StoppingCriteriaList, TextIteratorStreamer

from prism.models import adapters, generate, vision
from prism.models.chat import prompt_ids


@dataclass(frozen=True)
class Said:
    """An answer so far: its text, its tokens without the one that ends it, seconds since the question, to the first token.

    `first` is None while there is none; `tokens` run ahead of the text, of which whole words are shown.
    """

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    first: float | None = None
    finished: bool = False


class Voices:
    """A loaded base and the adapters that were worn on it; questions are answered one at a time."""

    def __init__(self, base: Base) -> None:
        self.base, self.model = base, base.model
        ends = base.model.generation_config.eos_token_id
        self.ends = [] if ends is None else list(ends) if isinstance(ends, list | tuple) else [ends]
        # `generate` completes its options from the model's own, which for Qwen2.5 include a repetition penalty.
        base.model.generation_config = GenerationConfig()
        self.turn = threading.Lock()

    def require_fit(self, folder: Path) -> None:
        """Raise ModelError if an adapter is of another base, damaged, or not loaded as a whole.

        Only before an adapter is worn: the check loads it on the plain base, and takes it off.
        """
        with warnings.catch_warnings(action="ignore"):  # PEFT lists every weight that does not fit; the error says it
            self.model = self.base.model = adapters.load_adapter(self.base, folder).unload()

    def ask(self, spec: Spec, example: Example, adapter: Path | None) -> Iterator[Said]:
        """The answer of the base, or of an adapter's folder, to one example, again after each word and once at its end.

        Raises DataError for a question that the model cannot be asked, SpecError for answers by beam search.
        """
        if spec.generate.get("num_beams", 1) > 1:
            raise SpecError(
                f"{spec.id}.toml [generate] num_beams: a beam's answer is known at its end alone; delete it"
            )
        base = replace(self.base, spec=spec)
        if adapter is not None:
            base = adapters.asked_with(base, adapter)
        prompt = self._encoded(base, example)
        width = prompt["input_ids"].shape[1]
        config = GenerationConfig(
            do_sample=False,
            pad_token_id=base.tokenizer.pad_token_id,
            eos_token_id=sorted({base.tokenizer.eos_token_id, base.chat.end, *self.ends}),
            **{name: value for name, value in spec.generate.items() if name not in ("stop_strings", "template")},
        )
        stops: Sequence[str] = spec.generate.get("stop_strings", [])
        streamer = TextIteratorStreamer(base.tokenizer, skip_prompt=True, skip_special_tokens=True)
        given_up, started = threading.Event(), time.perf_counter()
        produced: list[int] = []
        times: list[float] = []
        failures: list[BaseException] = []

        def observed(ids: torch.Tensor, _: Any) -> torch.Tensor:
            produced[:] = ids[0, width:].tolist()
            times.append(time.perf_counter() - started)
            return torch.full((1,), given_up.is_set(), device=ids.device)

        def work() -> None:
            try:
                with self.turn, self._wearing(adapter), sdpa_kernel(generate.ATTENTION):
                    options = {"streamer": streamer, "stopping_criteria": StoppingCriteriaList([observed])}
                    self.model.generate(**prompt, generation_config=config, **options)
            except BaseException as error:  # noqa: BLE001  # raised again where the answer is read
                failures.append(error)
            finally:
                streamer.end()  # a second end is not read

        def said(text: str, finished: bool = False) -> Said:
            tokens = [token for token in produced if token not in config.eos_token_id]
            seconds = times[-1] if finished and times else time.perf_counter() - started
            return Said(text, len(tokens), seconds, times[0] if times else None, finished)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        text = base.chat.opened
        try:
            for part in streamer:
                text += part
                cut = _before(text, stops)
                yield said(cut)
                if cut != text:
                    break
        finally:
            given_up.set()
            thread.join()
        if failures:
            raise failures[0]
        length = next((n for n, token in enumerate(produced) if token in config.eos_token_id), len(produced))
        whole = base.chat.opened + base.tokenizer.decode(produced[:length], skip_special_tokens=True)
        yield said(_before(whole, stops), finished=True)

    def _encoded(self, base: Base, example: Example) -> dict[str, torch.Tensor]:
        special = {*base.tokenizer.all_special_tokens, getattr(base.processor, "image_token", None) or "<|image_pad|>"}
        if found := next((token for token in sorted(special) if token in example.question), None):
            raise DataError(f"the question contains {found}, which the model reads as a command; delete it")
        if base.processor:
            prompt = vision.inputs(base, [example])
        else:
            prompt = generate.pad(base, [prompt_ids(base.tokenizer, base.chat.messages(example))])
        room = base.spec.model.max_seq_length - base.spec.generate.get("max_new_tokens", 0)
        if (tokens := prompt["input_ids"].shape[1]) > room:
            raise DataError(
                f"the question has {tokens:,} tokens with its prompt, but [model].max_seq_length leaves {room:,} for it; "
                f"shorten it"
            )
        return prompt

    @contextmanager
    def _wearing(self, adapter: Path | None) -> Iterator[None]:
        """With one adapter switched on, or none."""
        if adapter is None:
            if isinstance(self.model, PeftModel):
                with self.model.disable_adapter():
                    yield
            else:
                yield
            return
        if not isinstance(self.model, PeftModel):
            self.model = PeftModel.from_pretrained(self.base.model, str(adapter), adapter_name=adapter.name).eval()
        elif adapter.name not in self.model.peft_config:
            self.model.load_adapter(str(adapter), adapter_name=adapter.name)
            self.model.eval()
        self.model.set_adapter(adapter.name)
        yield


def _before(text: str, stops: Sequence[str]) -> str:
    """The text before the first of `stops`."""
    return text[: min([text.index(stop) for stop in stops if stop in text], default=len(text))]
