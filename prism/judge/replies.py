"""Read what an endpoint sends: a body of limited size, and in it a chat completion or the server's error message.

Nothing in it is trusted. A field that only informs (tokens used, likelihoods, the model's name) is left out where it is
malformed; a completion without its text is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import from_json

from prism.judge.spending import Spending
from prism.judge.weighing import weigh
from prism.redaction import redacted
from prism.rows.thoughts import without_thoughts
from prism.untrusted import escaped

if TYPE_CHECKING:
    from aiohttp import ClientResponse

MAX_BODY = 8 * 2**20  # bytes, decompressed: about 3,500 tokens with 20 likelihoods each, or two million without
MAX_ERROR = 64 * 2**10  # bytes of a response that is no completion; the rest is not read
MAX_PAUSE = 60.0  # seconds, whatever a server asks for
MAX_COUNT = 10**8  # tokens of one request that a server may report
DETAIL = 200  # characters of a server's message that a sentence quotes


class NotGraded(Exception):
    """One sample got no grade. `final`: the judge has answered, so asking again would only cost more."""

    def __init__(self, reason: str, *, final: bool) -> None:
        self.reason = shown(reason)
        super().__init__(self.reason)
        self.final = final


@dataclass(frozen=True)
class Reply:
    """The judge's reply. `raw` is the chat completion with its fields as attributes, as DeepEval reads it."""

    text: str
    model: str  # as the endpoint names it, because an alias such as gpt-4o-mini can change
    raw: Any = None


@dataclass(frozen=True)
class Response:
    """An HTTP response. `pause` is what the server asks to wait before the next request, in seconds."""

    status: int
    body: bytes
    pause: float = 0.0
    location: str = ""


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


_Lenient = WrapValidator(_or_none)
_Count = Annotated[Annotated[int, Field(ge=0, le=MAX_COUNT)] | None, _Lenient]
_Text = Annotated[str | None, _Lenient]


class _Likelihood(BaseModel):
    token: str
    logprob: Annotated[float, Field(le=0.001)]  # some round to a little above 0


class _Token(_Likelihood):
    top_logprobs: list[_Likelihood] = []


class _Logprobs(BaseModel):
    content: list[_Token]


class _Message(BaseModel):
    content: Any = None
    refusal: Any = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: _Text = None
    logprobs: Annotated[_Logprobs | None, _Lenient] = None


class _Usage(BaseModel):
    prompt_tokens: _Count = None
    completion_tokens: _Count = None


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=100)]
    usage: Annotated[_Usage | None, _Lenient] = None
    model: _Text = None


async def receive(response: ClientResponse) -> Response:
    """Read a response up to its limit. Raises NotGraded if a completion is longer."""
    body = bytearray()
    limit = MAX_BODY if response.status == 200 else MAX_ERROR
    async for part in response.content.iter_any():  # aiohttp decompresses in parts as well
        body += part
        if len(body) > limit:
            response.close()
            if response.status == 200:
                raise NotGraded(f"the judge's reply is longer than {limit:,} bytes, which is the limit", final=False)
            break
    headers = response.headers
    return Response(response.status, bytes(body), pause(headers.get("Retry-After", "")), headers.get("Location", ""))


def pause(retry_after: str) -> float:
    """The seconds of a Retry-After header, from 0 to `MAX_PAUSE`; 0 for a date, or for no number."""
    try:
        seconds = float(retry_after)
    except ValueError:
        return 0.0
    return min(MAX_PAUSE, max(0.0, seconds)) if math.isfinite(seconds) else 0.0


def read(response: Response, prompt: str, model: str, spending: Spending, *, weighed: bool) -> Reply | None:
    """The reply in a response, its tokens counted; None if the response is not a chat completion.

    `weighed`: its likelihoods are brought into the form of OpenAI's. Raises NotGraded if the completion holds no grade.
    """
    try:
        raw = _Completion.model_validate_json(response.body.decode(errors="replace"))
    except ValidationError:
        return None
    first, usage = raw.choices[0], raw.usage or _Usage()
    content = first.message.content
    said = redacted(content) if isinstance(content, str) else ""
    spending.add(usage.prompt_tokens or len(prompt) // 4, usage.completion_tokens or len(said) // 4)
    if first.message.refusal or first.finish_reason == "content_filter":
        raise NotGraded(f"refused by the judge: {part(str(first.message.refusal or 'content filter'))}", final=True)
    if first.finish_reason == "length":
        raise NotGraded("the judge's reply was cut off: finish_reason is length", final=True)
    if not isinstance(content, str | None):
        raise NotGraded(f"the judge's reply is no text: {type(content).__name__}", final=True)
    text, cut_off = _without_thoughts(said)
    if cut_off:
        raise NotGraded("the judge's reply was cut off: in its thought, before a grade", final=True)
    if not text.strip():
        raise NotGraded("the judge's reply is empty", final=True)
    first.message.content = text
    if weighed:
        weigh(raw)
    return Reply(text, redacted(raw.model or model), raw)


def _without_thoughts(text: str) -> tuple[str, bool]:
    """A reply without its thoughts, and whether it was cut off in one. JSON may quote an answer that has thoughts."""
    return (text, False) if text.lstrip().startswith(("{", "[", "```")) else without_thoughts(text)


def detail(response: Response) -> str:
    """The server's error message as part of a sentence; servers differ in where they put it."""
    try:
        message = from_json(response.body[:MAX_ERROR])
    except ValueError:
        return ""
    for name in ("error", "message"):
        message = message.get(name, message) if isinstance(message, dict) else message
    text = message if isinstance(message, str) else response.body.decode(errors="replace")
    return f": {part(text)}"


def part(text: str) -> str:
    """Text from outside as a part of a sentence: in one line and not long. Cut last, else half a key could remain."""
    return shown(" ".join(text.split()))[:DETAIL]


def shown(text: str) -> str:
    """Text from outside in a sentence: secrets redacted, and what is invisible as an escape, line ends apart.

    Else a reply could colour the terminal, move its cursor or turn the direction of writing.
    """
    return escaped(redacted(text))
