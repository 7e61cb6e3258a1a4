"""Ask a judge model one prompt at a time: an OpenAI-compatible endpoint, or a transformers model in a local folder.

Which judge it is, is said in words and never guessed from the environment. Patience, retries and the rate limit live
here, so that `grading` may speak of grades alone.
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
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from prism.errors import PrismError
from prism.judge.spending import Price, Spending

NOT_CONFIGURED = (
    "no judge is configured: pass --prism-judge openai:gpt-4o-mini, --prism-judge http://HOST:PORT/v1#MODEL or "
    "--prism-judge local:FOLDER, or set PRISM_JUDGE"
)
OPENAI = "https://api.openai.com/v1"
SHORTEST_WAIT = 2.0  # seconds: no request is given up sooner, however fast the others are
CONNECT = 10.0  # seconds for a connection; an answer may take longer
KNOWN_AFTER = 10  # answers, from which on their median says how long an answer takes
REPLY_TOKENS = 512  # a local judge's reply: a score and two sentences fit four times


class JudgeError(PrismError):
    """The judge cannot be asked at all: no key, no endpoint, no such model."""


class NotGraded(Exception):
    """One sample got no grade. `final`: the judge has answered, and asking again would only cost again."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


@dataclass(frozen=True)
class Choice:
    """The judge that somebody chose, and how hard it may be asked."""

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
        """What determines its grades. The address does not: the same model elsewhere is the same judge."""
        return _local_identity(self.model) if self.kind == "local" else {"kind": self.kind, "model": self.model}


@cache  # a judge's weights are some gigabytes, and every set of grades asks for this
def _local_identity(folder: str) -> dict[str, str]:
    from prism.store.provenance import versions
    from prism.store.sources import base_identity

    return {"kind": "local", **base_identity(folder, Path.cwd(), "the judge"), **versions(["torch", "transformers"])}


def choose(text: str | None, environ: Mapping[str, str] = os.environ) -> Choice | None:
    """The judge that an option or PRISM_JUDGE names, or None where neither does.

    `openai:MODEL` takes its key from OPENAI_API_KEY, `http://HOST:PORT/v1#MODEL` from PRISM_JUDGE_API_KEY (none is
    needed where the server asks for none), `local:FOLDER` needs no key. PRISM_JUDGE_PRICE sets a price.
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
        return Choice("local", str(folder), in_flight=1)
    address, _, model = text.partition("#")
    if text.startswith(("http://", "https://")) and urlsplit(address).netloc and model:
        return Choice("endpoint", model, address.rstrip("/"), environ.get("PRISM_JUDGE_API_KEY", ""), price)
    raise JudgeError(f"judge {text!r}: not one of openai:MODEL, http://HOST:PORT/v1#MODEL, local:FOLDER")


@dataclass(frozen=True)
class Reply:
    """What the judge said. `raw` is the chat completion with its fields as attributes, as DeepEval reads it."""

    text: str
    model: str  # as the endpoint names it: an alias such as gpt-4o-mini moves
    raw: Any = None


class Judge(Protocol):
    async def ask(self, prompt: str, **options: Any) -> Reply: ...


@contextlib.asynccontextmanager
async def connect(choice: Choice, spending: Spending) -> AsyncIterator[Judge]:
    """The judge, ready to be asked. Raises JudgeError or ModelError where it cannot be."""
    if choice.kind == "local":
        yield await asyncio.to_thread(Folder, choice, spending)
        return
    import aiohttp  # httpx takes 8 ms of CPU a request where 32 are in flight, aiohttp 1

    session = aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {choice.key}"} if choice.key else {},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
        connector=aiohttp.TCPConnector(limit=choice.in_flight),
        # A proxy of the environment is right for the outer world and wrong for a server on this machine.
        trust_env=urlsplit(choice.address).hostname not in ("localhost", "127.0.0.1", "::1"),
    )
    async with session:
        yield Endpoint(choice, spending, session)


@dataclass(frozen=True)
class Response:
    """What came back over HTTP."""

    status: int
    text: str
    retry_after: float


class Endpoint:
    """One OpenAI-compatible server, asked over and over."""

    def __init__(self, choice: Choice, spending: Spending, session: Any) -> None:
        self.choice = choice
        self.spending = spending
        self.session = session
        self.seconds: deque[float] = deque(maxlen=200)  # how long the latest answers took
        self.reached = False
        self.next_turn = 0.0

    async def ask(self, prompt: str, **options: Any) -> Reply:
        """The reply to one prompt, after retries on 429, 5xx, lost connections and hangs.

        Raises JudgeError where no request can ever succeed, and NotGraded where this one did not.
        """
        import aiohttp

        never = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
        message = {"role": "user", "content": prompt}
        body = {"model": self.choice.model, "messages": [message], "temperature": 0, **options}
        body = {name: value for name, value in body.items() if value is not None}
        problem = ""
        for attempt in range(self.choice.attempts):
            if attempt:
                self.spending.retries += 1
            await self._turn()
            pause = 0.0
            began = time.monotonic()
            try:
                response = await self._in_time(self._post(body), attempt)
            except aiohttp.ClientError as error:
                problem = f"{self.choice.address} cannot be reached ({error or type(error).__name__})"
                if not self.reached and isinstance(error, never):
                    raise JudgeError(f"judge {problem}; start the server, or name another judge") from None
            except TimeoutError:
                problem = f"no answer within {time.monotonic() - began:.0f} s"
            else:
                self.reached = True
                self._raise_for(response)
                if response.status == 200 and (reply := self._read(response, prompt)):
                    self.seconds.append(time.monotonic() - began)
                    return reply
                problem = f"HTTP {response.status}" + (" without a chat completion" if response.status == 200 else "")
                pause = response.retry_after
            if attempt + 1 < self.choice.attempts:
                backoff = min(30.0, 0.5 * 2**attempt) * random.uniform(0.5, 1.0)  # jitter keeps 32 from coming at once
                await asyncio.sleep(max(backoff, pause))
        raise NotGraded(f"no answer in {self.choice.attempts} attempts, the last one: {problem}", final=False)

    async def _turn(self) -> None:
        """Wait for this request's place under the rate limit."""
        now = time.monotonic()
        self.next_turn = max(self.next_turn, now)
        wait = self.next_turn - now
        self.next_turn += 60 / self.choice.per_minute
        if wait:
            await asyncio.sleep(wait)

    def patience(self, attempt: int) -> float:
        """How long to wait for an answer: five times what answers take here, twice that at each further attempt.

        A fixed limit is either too short for a model on a CPU or lets every hang of a fast server cost minutes.
        """
        if len(self.seconds) < KNOWN_AFTER:
            return self.choice.timeout
        return min(self.choice.timeout, max(SHORTEST_WAIT, 5 * median(self.seconds) * 2**attempt))

    async def _post(self, body: Mapping[str, Any]) -> Response:
        async with self.session.post(f"{self.choice.address}/chat/completions", json=body) as response:
            try:
                retry_after = min(60.0, float(response.headers.get("Retry-After", 0)))
            except ValueError:  # a date: the backoff has to do
                retry_after = 0.0
            return Response(response.status, await response.text(errors="replace"), retry_after)

    async def _in_time(self, request: Coroutine[Any, Any, Response], attempt: int) -> Response:
        """Await a request no longer than patience lasts, which may shorten while it is under way."""
        task = asyncio.ensure_future(request)
        began = time.monotonic()
        try:
            while (left := began + self.patience(attempt) - time.monotonic()) > 0:
                await asyncio.wait({task}, timeout=min(left, 1.0))
                if task.done():
                    return task.result()
            raise TimeoutError
        finally:
            task.cancel()

    def _raise_for(self, response: Response) -> None:
        """Raise where asking again cannot help. What is left (200, 408, 409, 429, 5xx) is the caller's."""
        status, said = response.status, _error(response)
        at = f"judge {self.choice.address}"
        if status in (401, 403):
            variable = "OPENAI_API_KEY" if self.choice.kind == "openai" else "PRISM_JUDGE_API_KEY"
            state = "the key was refused" if self.choice.key else "it wants a key, and none is set"
            raise JudgeError(f"{at}: {state} ({status}{said}); set {variable} to a valid one")
        if status == 404:
            raise JudgeError(
                f"{at}: knows no model {self.choice.model!r} (404{said}); check the model's name and that the address "
                f"ends as the server wants it, mostly in /v1"
            )
        if status == 429 and "insufficient_quota" in response.text:
            raise JudgeError(f"{at}: the account has no quota left (429{said}); what is graded is kept")
        if 300 <= status < 500 and status not in (408, 409, 429):
            raise NotGraded(f"the judge's endpoint refused the request (HTTP {status}{said})", final=False)

    def _read(self, response: Response, prompt: str) -> Reply | None:
        """The reply in a response, its tokens counted; None where the response is no chat completion."""
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
        if not isinstance(text, str) or not text.strip():
            raise NotGraded("the judge's reply is empty", final=True)
        return Reply(text, str(getattr(raw, "model", "") or self.choice.model), raw)


def _error(response: Response) -> str:
    """What the server says went wrong, as it stands in a sentence; servers differ in where they put it."""
    with contextlib.suppress(ValueError):
        found = json.loads(response.text)
        for name in ("error", "message"):
            found = found.get(name, found) if isinstance(found, dict) else found
        return f": {' '.join(str(found).split())[:200]}"
    return ""


class Folder:
    """A chat model in a local folder, asked one prompt at a time."""

    def __init__(self, choice: Choice, spending: Spending) -> None:
        from prism.store.sources import base_identity

        base_identity(choice.model, Path.cwd())  # refuses a missing folder, pickled weights and remote code
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.choice = choice
        self.spending = spending
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(choice.model)
        self.model: Any = AutoModelForCausalLM.from_pretrained(choice.model, dtype="auto").eval()
        self.model.to(self.device)
        self.turn = asyncio.Lock()

    async def ask(self, prompt: str, **_: Any) -> Reply:
        async with self.turn:
            return Reply(await asyncio.to_thread(self._generate, prompt), self.choice.name)

    def _generate(self, prompt: str) -> str:
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            enable_thinking=False,
            return_tensors="pt",
            return_dict=True,
        ).to(self.device)
        length = chat["input_ids"].shape[1]
        window = getattr(self.model.config, "max_position_embeddings", None)
        if window and length + REPLY_TOKENS > window:
            raise NotGraded(f"the judge's window of {window} tokens does not hold this prompt of {length}", final=True)
        answer = self.model.generate(**chat, max_new_tokens=REPLY_TOKENS, do_sample=False)[0, length:]
        self.spending.add(length, len(answer))
        return self.tokenizer.decode(answer, skip_special_tokens=True)
