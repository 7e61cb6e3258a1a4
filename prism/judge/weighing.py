"""The likelihoods of a score's numbers, as DeepEval's GEval reads them: one token a score.

GEval weights a score by the tokens that could have stood in its place, and takes each for a whole number. Of OpenAI's models
that is so. Many other tokenizers write 10 as 1 and 0, and a judge that hesitates between 9 and 10 would get the mean of
9 and 1; so the two tokens are told apart here, or, where the reply does not tell, the score is left as the judge said it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

SCORE = re.compile(r'"score"\s*:\s*"?(\d+)')
NEGLIGIBLE = 0.01  # GEval ignores tokens that are less likely


def completion(text: str, score: int, logprobs: Sequence[float]) -> SimpleNamespace:
    """A chat completion with the log-likelihood of each score from 0, as GEval reads one of OpenAI's."""
    choice = SimpleNamespace(
        message=SimpleNamespace(content=text), logprobs=_one_token(score, dict(enumerate(logprobs)))
    )
    return SimpleNamespace(choices=[choice])


def weigh(raw: Any) -> None:
    """Replace the log-likelihoods of a server's chat completion by those of the score alone, or by None."""
    first = raw.choices[0]
    content = getattr(getattr(first, "logprobs", None), "content", None)
    try:
        found = _scores(content) if content else None
    except (
        AttributeError,
        TypeError,
        ValueError,
        LookupError,
        OverflowError,
    ):  # a server of another mind about the format
        found = None
    first.logprobs = _one_token(*found) if found else None


def _one_token(score: int, logprobs: dict[int, float]) -> SimpleNamespace:
    tokens = [SimpleNamespace(token=str(number), logprob=value) for number, value in logprobs.items()]
    said = SimpleNamespace(token=str(score), logprob=logprobs[score], top_logprobs=tokens)
    return SimpleNamespace(content=[said])


def _scores(content: Sequence[Any]) -> tuple[int, dict[int, float]] | None:
    """The score said and the log-likelihood of each that could have been; None where 1 and 10 cannot be told apart."""
    found = list(SCORE.finditer("".join(part.token for part in content)))
    if not found:
        return None
    said, starts = found[-1][1], [0]
    for part in content:
        starts.append(starts[-1] + len(part.token))
    at = next(i for i, end in enumerate(starts[1:]) if end > found[-1].start(1))
    here = _likelihoods(content[at])
    following = _likelihoods(content[at + 1]) if at + 1 < len(content) else {}
    one, token = here.get("1", 0.0), _number(content[at].token)
    if token not in (said, said[0]):
        return None
    if token == "1":
        ten = min(1.0, following.get("0", 0.0))
        here |= {"1": one * (1 - ten), "10": here.get("10", 0.0) + one * ten}
    elif one >= NEGLIGIBLE and "10" not in here:
        return None
    numbers = {int(token): p for token, p in here.items() if token.isdecimal() and p > 0 and int(token) <= 10}
    return (int(said), {n: math.log(p) for n, p in numbers.items()}) if int(said) in numbers else None


def _likelihoods(part: Any) -> dict[str, float]:
    """The likelihood of each token that could have stood here."""
    found: dict[str, float] = {}
    for token in part.top_logprobs:
        found[_number(token.token)] = found.get(_number(token.token), 0.0) + math.exp(token.logprob)
    return found


def _number(token: str) -> str:
    """A token without the space or the quotation mark that some begin with."""
    return token.strip().strip('"')
