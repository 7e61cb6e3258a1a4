"""A chat model in a local folder as judge. It can only write what DeepEval asks for, so that even a small model answers.

llguidance masks every token that would leave the reply's schema, and generation ends with the schema. The score is not
decoded at all: after the judge's reason, the likelihood of each score from 0 to 10 is computed, and G-Eval's formula,
Σ p(s)·s (Liu et al. 2023, section 2.3), weights the scores by it.

One prompt is answered at a time. In a batch, padding would change the rounding, and a grade would depend on its neighbours.
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import llguidance
import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicCache, DynamicLayer

from prism.judge.choosing import Choice, JudgeError
from prism.judge.replies import NotGraded, Reply
from prism.judge.spending import Spending
from prism.judge.weighing import completion
from prism.models.lazy import forget
from prism.store.sources import base_identity

REPLY_TOKENS = 512  # of the lists that DeepEval's own metrics ask for
REASON_TOKENS = 96  # of the reason before a score: two long sentences
CHUNK = 128  # tokens of a prompt that are computed at once
SCORES = range(11)  # what GEval's prompt asks for
# GEval's reply up to its score. The limit ends the string, not the reply: what was not said is lost, the score is not.
REASON = rf"""
start: "{{\"reason\": \"" reason "\""
reason[max_tokens={REASON_TOKENS}]: /[^"\\\x00-\x1f\x7f]+/
"""


class LocalJudge:
    """The loaded judge, which occupies the GPU, if there is one, between `wake` and `rest`."""

    def __init__(self, choice: Choice, spending: Spending) -> None:
        self.choice = choice
        self.spending = spending
        self.tokenizer, self.model, self.vocabulary = _load(choice.model)
        self.lock = asyncio.Lock()
        self.last: tuple[list[int], Any] = ([], None)  # the tokens of the last prompt, and their KV cache

    def wake(self) -> None:
        forget()  # the base that the last experiment left on the GPU
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")

    def rest(self) -> None:
        """Leave the GPU to the next training. The weights stay in memory, so that they are read once in a run."""
        self.model.to("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    async def ask(
        self, prompt: str, *, schema: type[BaseModel] | None = None, logprobs: bool = False, **_: Any
    ) -> Reply:
        """Answer in `schema`; with `logprobs`, or without a schema, by a reason and a score with its likelihoods.

        Raises NotGraded if the prompt does not fit into the model's window, or the reply into `REPLY_TOKENS`.
        """
        async with self.lock:
            if schema is None or logprobs:
                return await asyncio.to_thread(self._grade, prompt)
            return await asyncio.to_thread(self._answer, prompt, schema)

    def _answer(self, prompt: str, schema: type[BaseModel]) -> Reply:
        described = schema.model_json_schema() | {"x-guidance": {"whitespace_flexible": False}}
        grammar = llguidance.LLMatcher.grammar_from_json_schema(described)
        ids, matcher, _ = self._decode(self._prompt_ids(prompt, REPLY_TOKENS), grammar, REPLY_TOKENS)
        if not matcher.is_stopped():
            raise NotGraded(f"the judge's reply was cut off: it exceeds {REPLY_TOKENS} tokens", final=True)
        return Reply(self.vocabulary.decode_str(ids), self.choice.name)

    def _grade(self, prompt: str) -> Reply:
        most = REASON_TOKENS + 32  # the JSON around the reason
        start = self._prompt_ids(prompt, most)
        ids, _, cache = self._decode(start, llguidance.LLMatcher.grammar_from_lark(REASON), most)
        likelihoods = self._likelihoods(ids[-1], cache)
        best = max(SCORES, key=lambda score: likelihoods[score])
        reply = f'{self.vocabulary.decode_str(ids)}, "score": {best}}}'
        return Reply(reply, self.choice.name, completion(reply, best, likelihoods))

    def _prompt_ids(self, prompt: str, reply_tokens: int) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, enable_thinking=False, tokenize=False
        )
        if text.rstrip().endswith("<think>"):  # some templates open a thought, whatever they are told
            text += "\n</think>\n\n"
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if window and len(ids) + reply_tokens > window:
            raise NotGraded(
                f"the judge's window of {window} tokens is too short for a prompt of {len(ids)}", final=True
            )
        return ids

    def _decode(self, start: list[int], grammar: str, most: int) -> tuple[list[int], Any, Any]:
        """The likeliest token after token that the grammar allows: tokens, the grammar's state and the KV cache."""
        matcher = llguidance.LLMatcher(self.vocabulary, grammar)
        mask = _Mask(matcher, len(start))
        prompt = torch.tensor([start], device=self.model.device)
        cache = self._prefilled(start)
        found = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # a folder's generation_config.json may say otherwise of chats
            temperature=None,
            top_p=None,
            top_k=None,
            logits_processor=LogitsProcessorList([mask]),
            stopping_criteria=StoppingCriteriaList([_Stop(mask)]),
            past_key_values=cache,
            return_dict_in_generate=True,
        )
        if matcher.is_error():
            error = str(matcher.get_error()).splitlines()[0]
            raise JudgeError(f"judge {self.choice.model}: llguidance cannot read its tokenizer ({error}); name another")
        ids: list[int] = found.sequences[0, len(start) :].tolist()
        self.spending.add(len(start), len(ids))
        return ids, matcher, found.past_key_values

    @torch.no_grad()
    def _prefilled(self, ids: list[int]) -> Any:
        """The KV cache of all tokens but the last; None of a model whose cache cannot be cut.

        What the prompt shares with the last one, the evaluation steps, is taken from there. Chunks begin at the same
        tokens either way, so that a grade does not depend on the prompts before it.
        """
        known, cache = self.last
        self.last = ([], None)
        same = next((n for n, (a, b) in enumerate(zip(ids, known)) if a != b), min(len(ids), len(known)))
        whole = len(ids) - 1
        begin = min(same, whole) // CHUNK * CHUNK
        if not begin:
            cache = DynamicCache(config=self.model.config)
            if not all(type(layer) is DynamicLayer for layer in cache.layers):
                return None
        else:
            cache.crop(begin - cache.get_seq_length())
        for first in range(begin, whole, CHUNK):
            part = torch.tensor([ids[first : min(first + CHUNK, whole)]], device=self.model.device)
            self.model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self.last = (ids, cache)
        return cache

    @torch.no_grad()
    def _likelihoods(self, last: int, cache: Any) -> list[float]:
        """The log-likelihood of each score after the token `last`, which is not yet in the cache."""
        computed: dict[tuple[int, ...], torch.Tensor] = {}

        def likelihood(ids: list[int]) -> float:
            begun = (last, *ids[:-1])
            if begun not in computed:
                tokens = torch.tensor([begun], device=self.model.device)
                output = self.model(input_ids=tokens, past_key_values=copy.deepcopy(cache), use_cache=True)
                computed[begun] = output.logits[0].float().log_softmax(-1)
            return sum(float(scores[token]) for scores, token in zip(computed[begun], ids))

        written = [self.tokenizer(f', "score": {score}', add_special_tokens=False)["input_ids"] for score in SCORES]
        found = [likelihood(ids) for ids in written]
        if written[10][: len(written[1])] == written[1]:  # 10 begins as 1 does, so 1 is what does not go on as 10
            found[1] += math.log(max(-math.expm1(found[10] - found[1]), 1e-9))
        total = math.log(sum(map(math.exp, found)))
        return [value - total for value in found]


class _Mask(LogitsProcessor):
    """Forbids the tokens that leave the grammar."""

    def __init__(self, matcher: Any, start: int) -> None:
        self.matcher = matcher
        self.read = start  # tokens that the grammar has taken, the prompt's included

    def take(self, ids: torch.Tensor) -> None:
        """Tell the grammar of the tokens since the last call."""
        self.matcher.consume_tokens(ids[0, self.read :].tolist())
        self.read = ids.shape[1]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.take(input_ids)
        bias = torch.frombuffer(bytearray(self.matcher.compute_logit_bias()), dtype=torch.uint8)
        allowed = torch.zeros(scores.shape[-1], dtype=torch.bool)
        allowed[: len(bias)] = bias.bool()[: len(allowed)]
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)


class _Stop(StoppingCriteria):
    """Ends generation where the grammar ends."""

    def __init__(self, mask: _Mask) -> None:
        self.mask = mask

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.mask.take(input_ids)
        return torch.tensor([self.mask.matcher.is_stopped()], device=input_ids.device)


@lru_cache(maxsize=1)
def _load(folder: str) -> tuple[Any, Any, Any]:
    """Tokenizer, model and llguidance's view of the vocabulary. Raises ModelError or JudgeError."""
    base_identity(folder, Path.cwd())  # refuses a missing folder, pickled weights and remote code
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # Half precision is slower on a CPU that does not compute in it.
        dtype = "auto" if torch.cuda.is_available() else torch.float32
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
        ).eval()
    except (OSError, ValueError, SafetensorError) as error:
        raise JudgeError(f"judge {folder}: cannot be loaded: {str(error).splitlines()[0]}; name another") from error
    if not tokenizer.chat_template:
        raise JudgeError(f"judge {folder}: has no chat template; name a model that is tuned to follow instructions")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise JudgeError(f"judge {folder}: has no tokenizer.json, which llguidance needs; name a model that has one")
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["truncation"] = described["padding"] = None
    if '"ByteLevel"' in json.dumps(described["pre_tokenizer"]):
        # A tokenizer that was read from a GGUF file names a second decoder, and llguidance would go by that one.
        described["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    width = max(model.get_input_embeddings().num_embeddings, len(tokenizer))
    try:
        vocabulary = llguidance.LLTokenizer(json.dumps(described), n_vocab=width, eos_token=tokenizer.eos_token_id)
    except ValueError as error:
        raise JudgeError(f"judge {folder}: llguidance cannot read its tokenizer ({error}); name another") from error
    return tokenizer, model, vocabulary
