"""Choose a judge, and send prompts to an OpenAI-compatible endpoint; `local` asks a model in a local folder.

The judge is named explicitly, never guessed from the environment. Timeouts, retries and the rate limit are handled
here, so that `grading` handles only grades.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel

from prism.errors import PrismError
from prism.judge.replies import NotGraded, Reply, Response, detail, part, read, receive
from prism.judge.spending import Price, Spending
from prism.redaction import keep

NOT_CONFIGURED = (
    "no judge is configured: pass --prism-judge openai:gpt-4o-mini, --prism-judge http://HOST:PORT/v1#MODEL or "
    "--prism-judge local:FOLDER, or set PRISM_JUDGE"
)
OPENAI = "https://api.openai.com/v1"
MIN_TIMEOUT = 2.0  # seconds, however fast the other requests are
CONNECT_TIMEOUT = 10.0  # seconds; an answer may take longer
TOP_LOGPROBS = 20  # OpenAI's and vLLM's limit
REDIRECTS = (301, 302, 303, 307, 308)
KNOWN_AFTER = 10  # answers; after so many, their median sets the timeout


class JudgeError(PrismError):
    """The judge cannot be used at all: no key, no endpoint, no such model."""


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

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine: another one would look for it on itself."""
        return self.kind == "local" or urlsplit(self.address).hostname in ("localhost", "127.0.0.1", "::1")

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
    text = (text or environ.get("PRISM_JUDGE") or "").strip()
    if not text:
        return None
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e]", text):
        raise JudgeError(
            f"judge {_masked(text)!r}: holds a line end or a control character; write openai:MODEL, "
            f"http://HOST:PORT/v1#MODEL or local:FOLDER without"
        )
    price = Price.parse(environ["PRISM_JUDGE_PRICE"]) if environ.get("PRISM_JUDGE_PRICE") else None
    if text.startswith("openai:") and text != "openai:":
        model = text.removeprefix("openai:")
        if not (key := _key("OPENAI_API_KEY", environ)):
            raise JudgeError(f"judge {_masked(text)}: OPENAI_API_KEY is not set; set it, or name another judge")
        return Choice("openai", model, OPENAI, key, price or Price.published(model))
    if text.startswith("local:") and text != "local:":
        try:
            folder = Path(text.removeprefix("local:")).expanduser().resolve()
        except (OSError, RuntimeError) as error:  # of an unknown user's home, or of links in a circle
            raise JudgeError(f"judge {text}: the folder cannot be found ({error}); name another") from None
        if find_spec("llguidance") is None:
            raise JudgeError(
                f"judge {text}: llguidance is not installed, and without it small models seldom write JSON; "
                f"pip install 'pytest-prism[judge-local]', or name another judge"
            )
        return Choice("local", str(folder), in_flight=1)
    address, _, model = text.partition("#")
    if address.startswith(("http://", "https://")) and address.partition("://")[2] and model:
        _check_address(text, address, model)
        return Choice("endpoint", model, address.rstrip("/"), _key("PRISM_JUDGE_API_KEY", environ), price)
    raise JudgeError(f"judge {_masked(text)!r}: not one of openai:MODEL, http://HOST:PORT/v1#MODEL, local:FOLDER")


def _check_address(text: str, address: str, model: str) -> None:
    """Raise JudgeError if requests cannot be sent to the address, or if it holds what a key's variable is for."""
    wanted = "leave that out, and set PRISM_JUDGE_API_KEY if the server needs a key"
    if "@" in address or re.search("@.*[/#]", model):  # a password may hold a "#"
        raise JudgeError(f"judge {_masked(text)!r}: its address holds a user name or a password; {wanted}")
    if "?" in address:
        raise JudgeError(f"judge {_masked(text)!r}: its address has a query, which may hold a key; {wanted}")
    try:
        parts = urlsplit(address)
        readable = bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:  # its own message may quote a password
        readable = False
    if not readable or not re.fullmatch(r"[\x21-\x7e]+", address) or not model.isprintable():
        raise JudgeError(
            f"judge {_masked(text)!r}: its address cannot be read; write http://HOST:PORT/v1#MODEL with a port from 1 to "
            f"65535, without spaces, and with [ ] around the address of an IPv6 host"
        )


def _masked(text: str) -> str:
    """The named judge without what may be a password or a key: all before the last @, and a query."""
    return re.sub(r"\?.*", "?…", re.sub(r"^(\w+:/*)?.*(?:@|%40)", r"\1…@", text, flags=re.DOTALL), flags=re.DOTALL)


def _key(variable: str, environ: Mapping[str, str]) -> str:
    """The key in an environment variable, redacted from now on; empty if there is none."""
    key = environ.get(variable, "").strip()
    keep(key)
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise JudgeError(
            f"{variable}: holds a space, a line end or a character that is not ASCII, which no key has; set it to the "
            f"key alone"
        )
    return key


class Judge(Protocol):
    async def ask(
        self, prompt: str, *, schema: type[BaseModel] | None = None, logprobs: bool = False, **options: Any
    ) -> Reply: ...


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
                problem = f"{self.choice.address} cannot be reached ({part(str(error)) or type(error).__name__})"
                if not self.reached and isinstance(error, permanent):
                    raise JudgeError(f"judge {problem}; start the server, or name another judge") from None
            except TimeoutError:
                problem = f"no answer within {time.monotonic() - start:.0f} s"
            else:
                self.reached = True
                self._raise_if_permanent(response)
                if response.status == 200:
                    weighed = self.choice.kind == "endpoint"
                    if reply := read(response, prompt, self.choice.model, self.spending, weighed=weighed):
                        self.seconds.append(time.monotonic() - start)
                        return reply
                without = f" without a chat completion{detail(response)}" if response.status == 200 else ""
                problem, pause = f"HTTP {response.status}{without}", response.pause
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
        address = f"{self.choice.address}/chat/completions"
        async with self.session.post(address, json=body, allow_redirects=False) as response:
            return await receive(response)

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
        status, said = response.status, detail(response)
        at = f"judge {self.choice.address}"
        if status in REDIRECTS:
            sentence = f"{at}: redirects to {_place(response.location)} ({status}), and prompts follow no redirect"
            if self.seconds:  # one server of several, perhaps: the others' grades are on their way
                raise NotGraded(sentence, final=False)
            raise JudgeError(f"{sentence}; name the final address if you trust it")
        if status in (401, 403):
            variable = "OPENAI_API_KEY" if self.choice.kind == "openai" else "PRISM_JUDGE_API_KEY"
            state = "the key was refused" if self.choice.key else "it needs a key, and none is set"
            raise JudgeError(f"{at}: {state} ({status}{said}); set {variable} to a valid one")
        if status == 404:
            raise JudgeError(
                f"{at}: has no model {self.choice.model!r} (404{said}); check the model's name and that the address "
                f"ends as the server expects, usually in /v1"
            )
        if status == 429 and b"insufficient_quota" in response.body:
            raise JudgeError(
                f"{at}: the account has no quota left (429{said}); add quota and run again, the grades are kept"
            )
        if 300 <= status < 500 and status not in (408, 409, 429):
            raise NotGraded(f"the judge's endpoint refused the request (HTTP {status}{said})", final=False)


def _place(location: str) -> str:
    """Where a redirect leads, without a query or credentials."""
    try:
        parts = urlsplit(location)
        host = parts.hostname or ""
    except ValueError:
        return "another address"
    return part(f"{parts.scheme}://{host}{parts.path}" if host else parts.path) or "another address"
