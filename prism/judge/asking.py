"""Choose a judge, and send prompts to an OpenAI-compatible endpoint; `local` asks a model in a local folder.

The judge is named explicitly, never guessed from the environment. Timeouts, retries and the rate limit are handled
here, so that `grading` handles only grades.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel

from prism.errors import PrismError
from prism.judge.spending import Price, Spending
from prism.judge.weighing import weigh
from prism.rows.thoughts import without_thoughts

NOT_CONFIGURED = (
    "no judge is configured: pass --prism-judge openai:gpt-4o-mini, --prism-judge http://HOST:PORT/v1#MODEL or "
    "--prism-judge local:FOLDER, or set PRISM_JUDGE"
)
OPENAI = "https://api.openai.com/v1"
MIN_TIMEOUT = 2.0  # seconds, however fast the other requests are
CONNECT_TIMEOUT = 10.0  # seconds; an answer may take longer
TOP_LOGPROBS = 20  # OpenAI's and vLLM's limit
KNOWN_AFTER = 10  # answers; after so many, their median sets the timeout


class JudgeError(PrismError):
    """The judge cannot be used at all: no key, no endpoint, no such model."""


class NotGraded(Exception):
    """One sample got no grade. `final`: the judge has answered, so asking again would only cost more."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


@dataclass(frozen=True)
class Choice:
    """The chosen judge and its request limits."""

    kind: Literal["openai", "endpoint", "local"]
    model: str
    address: str = ""
    key: str = field(default="", repr=False)
    price: Price | None = None
    in_flight: int = 32
    per_minute: float = math.inf
    timeout: float = 120.0
    attempts: int = 6

    @property
    def name(self) -> str:
        return f"{self.kind}:{Path(self.model).name if self.kind == 'local' else self.model}"

    def identity(self) -> dict[str, str]:
        """What determines its grades. The address does not: the same model at another address is the same judge."""
        return _local_identity(self.model) if self.kind == "local" else {"kind": self.kind, "model": self.model}


@cache  # hashes gigabytes of weights, and every set of grades needs it
def _local_identity(folder: str) -> dict[str, str]:
    from prism.store.provenance import versions
    from prism.store.sources import base_identity

    libraries = versions(["torch", "transformers", "llguidance"])
    return {"kind": "local", "decoding": "2", **base_identity(folder, Path.cwd(), "the judge"), **libraries}


def choose(text: str | None, environ: Mapping[str, str] = os.environ) -> Choice | None:
    """The judge that an option or PRISM_JUDGE names, or None if neither does.

    `openai:MODEL` takes its key from OPENAI_API_KEY, `http://HOST:PORT/v1#MODEL` from PRISM_JUDGE_API_KEY (if the
    server needs one), `local:FOLDER` needs no key. PRISM_JUDGE_PRICE sets a price.
    """
    text = text or environ.get("PRISM_JUDGE")
    if not text:
        return None
    price = Price.parse(environ["PRISM_JUDGE_PRICE"]) if environ.get("PRISM_JUDGE_PRICE") else None
    if text.startswith("openai:") and text != "openai:":
        model = text.removeprefix("openai:")
        if not environ.get("OPENAI_API_KEY"):
            raise JudgeError(f"judge {text}: OPENAI_API_KEY is not set; set it, or name another judge")
        return Choice("openai", model, OPENAI, environ["OPENAI_API_KEY"], price or Price.published(model))
    if text.startswith("local:") and text != "local:":
        folder = Path(text.removeprefix("local:")).expanduser().resolve()
        if find_spec("llguidance") is None:
            raise JudgeError(
                f"judge {text}: llguidance is not installed, and without it small models seldom write JSON; "
                f"pip install 'pytest-prism[judge-local]', or name another judge"
            )
        return Choice("local", str(folder), in_flight=1)
    address, _, model = text.partition("#")
    if text.startswith(("http://", "https://")) and urlsplit(address).netloc and model:
        return Choice("endpoint", model, address.rstrip("/"), environ.get("PRISM_JUDGE_API_KEY", ""), price)
    raise JudgeError(f"judge {text!r}: not one of openai:MODEL, http://HOST:PORT/v1#MODEL, local:FOLDER")


@dataclass(frozen=True)
class Reply:
    """The judge's reply. `raw` is the chat completion with its fields as attributes, as DeepEval reads it."""

    text: str
    model: str  # as the endpoint names it, because an alias such as gpt-4o-mini can change
    raw: Any = None


class Judge(Protocol):
    async def ask(
        self, prompt: str, *, schema: type[BaseModel] | None = None, logprobs: bool = False, **options: Any
    ) -> Reply: ...


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    text: str
    retry_after: float


class Endpoint:
    """An OpenAI-compatible server."""

    def __init__(self, choice: Choice, spending: Spending, session: Any) -> None:
        self.choice = choice
        self.spending = spending
        self.session = session
        self.seconds: deque[float] = deque(maxlen=200)  # durations of the latest answers
        self.reached = False
        self.likelihoods = True  # until the server refuses to say them
        self.next_start = 0.0

    async def ask(
        self, prompt: str, *, schema: type[BaseModel] | None = None, logprobs: bool = False, **options: Any
    ) -> Reply:
        """Send one prompt, with retries after 429, 5xx, lost connections and timeouts.

        A server that refuses log-probabilities is asked without them from then on. The schema is not sent, since the
        prompt describes it and not every server takes one. Raises JudgeError if no request can ever succeed, and
        NotGraded if this one failed.
        """
        import aiohttp

        permanent = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
        message = {"role": "user", "content": prompt}
        body = {"model": self.choice.model, "messages": [message], "temperature": 0, **options}
        body = {name: value for name, value in body.items() if value is not None}
        likelihoods = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if logprobs and self.likelihoods else {}
        problem = ""
        for attempt in range(self.choice.attempts):
            if attempt:
                self.spending.retries += 1
            await self._wait_for_rate_limit()
            pause = 0.0
            start = time.monotonic()
            try:
                response = await self._with_timeout(self._post(body | likelihoods), attempt)
                if likelihoods and response.status in (400, 422):
                    likelihoods = {}
                    response = await self._with_timeout(self._post(body), attempt)
                    self.likelihoods = (
                        response.status != 200
                    )  # else something other than the log-probabilities was wrong
            except aiohttp.ClientError as error:
                problem = f"{self.choice.address} cannot be reached ({error or type(error).__name__})"
                if not self.reached and isinstance(error, permanent):
                    raise JudgeError(f"judge {problem}; start the server, or name another judge") from None
            except TimeoutError:
                problem = f"no answer within {time.monotonic() - start:.0f} s"
            else:
                self.reached = True
                self._raise_if_permanent(response)
                if response.status == 200 and (reply := self._read(response, prompt)):
                    self.seconds.append(time.monotonic() - start)
                    return reply
                problem = f"HTTP {response.status}" + (" without a chat completion" if response.status == 200 else "")
                pause = response.retry_after
            if attempt + 1 < self.choice.attempts:
                backoff = min(30.0, 0.5 * 2**attempt) * random.uniform(0.5, 1.0)  # jitter, so 32 do not retry at once
                await asyncio.sleep(max(backoff, pause))
        raise NotGraded(f"no answer in {self.choice.attempts} attempts, the last one: {problem}", final=False)

    async def _wait_for_rate_limit(self) -> None:
        """Wait until the rate limit allows this request."""
        now = time.monotonic()
        self.next_start = max(self.next_start, now)
        wait = self.next_start - now
        self.next_start += 60 / self.choice.per_minute
        if wait:
            await asyncio.sleep(wait)

    def patience(self, attempt: int) -> float:
        """The timeout of an answer: five times the median, doubled at each further attempt.

        A fixed timeout is either too short for a model on a CPU, or every hang of a fast server costs minutes.
        """
        if len(self.seconds) < KNOWN_AFTER:
            return self.choice.timeout
        return min(self.choice.timeout, max(MIN_TIMEOUT, 5 * median(self.seconds) * 2**attempt))

    async def _post(self, body: Mapping[str, Any]) -> Response:
        async with self.session.post(f"{self.choice.address}/chat/completions", json=body) as response:
            try:
                retry_after = min(60.0, float(response.headers.get("Retry-After", 0)))
            except ValueError:  # it is a date: use the backoff alone
                retry_after = 0.0
            return Response(response.status, await response.text(errors="replace"), retry_after)

    async def _with_timeout(self, request: Coroutine[Any, Any, Response], attempt: int) -> Response:
        """Await a request up to its timeout, which may shorten while the request runs."""
        task = asyncio.ensure_future(request)
        start = time.monotonic()
        try:
            while (left := start + self.patience(attempt) - time.monotonic()) > 0:
                await asyncio.wait({task}, timeout=min(left, 1.0))
                if task.done():
                    return task.result()
            raise TimeoutError
        finally:
            task.cancel()

    def _raise_if_permanent(self, response: Response) -> None:
        """Raise if a retry cannot help. The caller handles the rest (200, 408, 409, 429, 5xx)."""
        status, detail = response.status, _error_detail(response)
        at = f"judge {self.choice.address}"
        if status in (401, 403):
            variable = "OPENAI_API_KEY" if self.choice.kind == "openai" else "PRISM_JUDGE_API_KEY"
            state = "the key was refused" if self.choice.key else "it needs a key, and none is set"
            raise JudgeError(f"{at}: {state} ({status}{detail}); set {variable} to a valid one")
        if status == 404:
            raise JudgeError(
                f"{at}: has no model {self.choice.model!r} (404{detail}); check the model's name and that the address "
                f"ends as the server expects, usually in /v1"
            )
        if status == 429 and "insufficient_quota" in response.text:
            raise JudgeError(
                f"{at}: the account has no quota left (429{detail}); add quota and run again, the grades are kept"
            )
        if 300 <= status < 500 and status not in (408, 409, 429):
            raise NotGraded(f"the judge's endpoint refused the request (HTTP {status}{detail})", final=False)

    def _read(self, response: Response, prompt: str) -> Reply | None:
        """The reply in a response, its tokens counted; None if the response is not a chat completion."""
        try:
            raw = json.loads(response.text, object_hook=lambda table: SimpleNamespace(**table))
            first = raw.choices[0]
            text = first.message.content
        except (ValueError, AttributeError, TypeError, LookupError):
            return None
        usage = getattr(raw, "usage", None)
        self.spending.add(
            getattr(usage, "prompt_tokens", None) or len(prompt) // 4,
            getattr(usage, "completion_tokens", None) or len(text or "") // 4,
        )
        refusal = getattr(first.message, "refusal", None)
        if refusal or getattr(first, "finish_reason", "") == "content_filter":
            raise NotGraded(f"refused by the judge: {str(refusal or 'content filter')[:200]}", final=True)
        if getattr(first, "finish_reason", "") == "length":
            raise NotGraded("the judge's reply was cut off: finish_reason is length", final=True)
        text, cut_off = _said(text) if isinstance(text, str) else ("", False)
        if cut_off:
            raise NotGraded("the judge's reply was cut off: in its thought, before a grade", final=True)
        if not text.strip():
            raise NotGraded("the judge's reply is empty", final=True)
        first.message.content = text
        if self.choice.kind == "endpoint":
            weigh(raw)
        return Reply(text, str(getattr(raw, "model", "") or self.choice.model), raw)


def _said(text: str) -> tuple[str, bool]:
    """A reply without its thoughts, and whether it was cut off in one. JSON may quote an answer that has thoughts."""
    return (text, False) if text.lstrip().startswith(("{", "[", "```")) else without_thoughts(text)


def _error_detail(response: Response) -> str:
    """The server's error message as part of a sentence; servers differ in where they put it."""
    with contextlib.suppress(ValueError):
        message = json.loads(response.text)
        for name in ("error", "message"):
            message = message.get(name, message) if isinstance(message, dict) else message
        return f": {' '.join(str(message).split())[:200]}"
    return ""
