"""Send prompts to an OpenAI-compatible endpoint; `local` asks a model in a local folder.

Timeouts, retries and the rate limit are handled here, so that `grading` handles only grades.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from statistics import median
from typing import Any, Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel

from prism.judge.choosing import Choice, JudgeError
from prism.judge.replies import NotGraded, Reply, Response, detail, part, read, receive
from prism.judge.spending import Spending

MIN_TIMEOUT = 2.0  # seconds, however fast the other requests are
CONNECT_TIMEOUT = 10.0  # seconds; an answer may take longer
TOP_LOGPROBS = 20  # OpenAI's and vLLM's limit
REDIRECTS = (301, 302, 303, 307, 308)
KNOWN_AFTER = 10  # answers; after so many, their median sets the timeout


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
