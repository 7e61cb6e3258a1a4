"""Grade answers by a judge: DeepEval's metrics, with concurrent requests, each judgement paid for once.

Others wrote the question, the answer and the reference, so the judge gets them fenced as data. A sample that the judge
could not grade is unscored with its reason, never 0.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from prism.errors import PrismError
from prism.judge import ANSWER_RELEVANCY, FAITHFULNESS, Case, Definition, Grade, ledger
from prism.judge.asking import CONNECT_TIMEOUT, Endpoint, Judge
from prism.judge.choosing import Choice
from prism.judge.fencing import (
    FENCE_STEP,
    FENCING,
    MAX_LENGTH,
    Lines,
    clean,
    faithfulness_template,
    fence,
    relevancy_template,
)
from prism.judge.ledger import Ledger
from prism.judge.replies import NotGraded, Reply, shown
from prism.judge.spending import Spending, Tokens
from prism.store import Store, digest

if TYPE_CHECKING:
    from deepeval.metrics import BaseMetric
    from deepeval.models import DeepEvalBaseLLM
    from pydantic import BaseModel

    ModelClass = Callable[[list[Reply]], DeepEvalBaseLLM]

EMPTY = "empty answer"  # the reason of a 0 without a request
READING = 2  # raise it if the same reply gives another grade
SCALE = (0, 10)  # of the whole numbers that GEval asks for
PARTS = {ANSWER_RELEVANCY.metric: "statements", FAITHFULNESS.metric: "claims"}  # what each verdict is on
REFUSAL = re.compile(r"(?i)\b(?:I(?:'m| am) sorry|I can(?:'|no)t|I am unable|I'm unable|as an AI)\b")


def grade(
    choice: Choice,
    definition: Definition,
    cases: Sequence[Case],
    store: Store,
    *,
    spending: Spending | None = None,
    advance: Callable[[int], object] = lambda _: None,
    repeat: int = 0,
) -> list[Grade]:
    """Return one grade per case, in their order; each is requested once in the store's life.

    The ledger stores a judgement immediately, graded or unscored, so that a killed run continues where it stopped. A
    case without a judgement (no reply in all attempts, budget reached) is unscored in this run, and the next run asks
    again. An empty answer gets 0 without a request: if it were unscored, a model would gain by not answering.
    `spending` has the budget and the amount spent, over several calls if it is shared. `repeat` numbers the repetitions
    of a test-retest. Raises JudgeError if the judge cannot be used at all.
    """
    spending = spending or Spending(choice.price)
    identity = judgement_identity(choice, definition)
    keys = [_key(case, definition, repeat) for case in cases]
    unscored = {key: reason for key, case in zip(keys, cases) if (reason := _ungradable(definition, case))}
    what = f"{definition.metric} by {choice.name}"
    with ledger.locked(store, identity, what) as log:
        gradable = {key: case for key, case in zip(keys, cases) if key not in unscored and not _is_empty(case)}
        missing = {key: case for key, case in gradable.items() if key not in log.entries}
        advance(len(cases) - len(missing))
        if missing:
            with ledger.alone(store, identity, what, log):
                left = {key: case for key, case in missing.items() if key not in log.entries}
                advance(len(missing) - len(left))
                if left:
                    unscored |= asyncio.run(_grade_all(choice, definition, left, log, spending, advance))
        entries = log.entries

    def graded(key: str, case: Case) -> Grade:
        if key in unscored:
            return Grade(case.id, None, unscored[key])
        if _is_empty(case):
            return Grade(case.id, 0.0, EMPTY)
        return Grade(case.id, entries[key]["score"], _reason(entries[key]))

    return [graded(key, case) for key, case in zip(keys, cases)]


def estimate(choice: Choice, definition: Definition, cases: Sequence[Case], store: Store, repeats: int = 1) -> Tokens:
    """Estimate the tokens to grade these cases; judgements in the store cost nothing."""
    entries = ledger.read(store, judgement_identity(choice, definition))
    gradable = [case for case in cases if not _ungradable(definition, case) and not _is_empty(case)]
    by_key = {_key(case, definition, repeat): case for repeat in range(repeats) for case in gradable}
    return sum((_expected(definition, case) for key, case in by_key.items() if key not in entries), Tokens())


def unscored_reasons(grades: Sequence[Grade]) -> dict[str, int]:
    """Count the missing grades by reason, without the part of a reason that is specific to a sample."""
    counts: dict[str, int] = {}
    for each in grades:
        if each.score is None:
            kind = each.reason.split(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def judgement_identity(choice: Choice, definition: Definition) -> dict[str, Any]:
    """What determines a judgement besides the texts: the judge, the metric, and DeepEval, whose prompts it uses."""
    return {
        "judge": choice.identity(),
        "metric": [definition.metric, definition.version, definition.steps],
        "deepeval": version("deepeval"),
        "fencing": [FENCING, FENCE_STEP, MAX_LENGTH],
        "reading": READING,
    }


def _key(case: Case, definition: Definition, repeat: int) -> str:
    texts = [clean(case.question), clean(case.answer), clean(case.reference) if definition.reads == "reference" else ""]
    texts += [clean(case.context)] if definition.reads == "context" else []
    return digest([texts, repeat])


def _ungradable(definition: Definition, case: Case) -> str:
    """Why the judge cannot be asked about this case; empty if it can."""
    if definition.reads != "nothing" and not getattr(case, definition.reads).strip():
        return f"empty {definition.reads}"
    return ""


def _is_empty(case: Case) -> bool:
    return not case.answer.strip()


def _reason(entry: Mapping[str, Any]) -> str:
    return shown(entry["reason"]) + (f" ({entry['note']})" if entry.get("note") else "")  # an older one is as it came


def _expected(definition: Definition, case: Case) -> Tokens:
    """A token is about four characters of English; DeepEval's own prompt text is about 1,200 characters."""
    texts = sum(min(len(text), MAX_LENGTH) for text in (case.question, case.answer, case.reference, case.context))
    characters = 1_200 + len(FENCE_STEP) + sum(map(len, definition.steps)) + texts
    return Tokens(definition.requests, definition.requests * characters // 4, definition.requests * 100)


async def _grade_all(
    choice: Choice,
    definition: Definition,
    cases: Mapping[str, Case],
    log: Ledger,
    spending: Spending,
    advance: Callable[[int], object],
) -> dict[str, str]:
    """Grade every case, with `in_flight` workers. Return why some have no judgement in the ledger."""
    queue = iter(cases.items())
    reasons: dict[str, str] = {}

    async def work(model_class: ModelClass) -> None:
        for key, case in queue:
            expected = _expected(definition, case)
            if not spending.allows(expected):
                reasons[key] = f"budget reached: {spending.budget}; the next run continues here"
            else:
                with spending.reserve(expected):
                    try:
                        log.add(key, **await _judgement(definition, model_class, case))
                    except NotGraded as error:
                        reasons[key] = error.reason
            advance(1)

    async with _connect(choice, spending) as judge:
        model_class = _model_class(choice, judge)
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(choice.in_flight, len(cases))):
                    workers.create_task(work(model_class))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # all workers fail for the same reason
    return reasons


@asynccontextmanager
async def _connect(choice: Choice, spending: Spending) -> AsyncIterator[Judge]:
    """Open the judge for requests. Raises JudgeError or ModelError if that fails."""
    if choice.kind == "local":
        from prism.judge.local import LocalJudge

        local = await asyncio.to_thread(LocalJudge, choice, spending)
        local.wake()
        try:
            yield local
        finally:
            local.rest()
        return
    import aiohttp  # with 32 requests in flight, httpx takes 8 ms of CPU per request, aiohttp 1

    session = aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {choice.key}"} if choice.key else {},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
        connector=aiohttp.TCPConnector(limit=choice.in_flight),
        cookie_jar=aiohttp.DummyCookieJar(),
        # Use the environment's proxy for other hosts, but not for a server on this machine.
        trust_env=not choice.is_here,
    )
    async with session:
        yield Endpoint(choice, spending, session)


async def _judgement(definition: Definition, model_class: ModelClass, case: Case) -> dict[str, Any]:
    """The ledger's entry of one sample: score, reason and note. Raises NotGraded if the judge has not answered."""
    from deepeval.errors import ContextWindowExceededError
    from deepeval.test_case import LLMTestCase

    fenced, note = fence(case)
    replies: list[Reply] = []
    metric = _metric(definition, model_class(replies))
    test = LLMTestCase(
        input=fenced.question,
        actual_output=fenced.answer,
        expected_output=fenced.reference,
    )
    test.retrieval_context = Lines([fenced.context]) if fenced.context else None  # type: ignore[assignment]
    test.multimodal = False  # else DeepEval loads an image for "[DEEPEVAL:IMAGE:…]" in an answer
    score: float | None = None
    try:
        await metric.a_measure(test, _show_indicator=False)
        score, reason = _read(metric, replies[-1])
    except PrismError:
        raise
    except ContextWindowExceededError:
        reason = "too long for the judge's context window"
    except NotGraded as error:
        if not error.final:
            raise
        reason = error.reason
    except Exception as error:  # DeepEval raises any type of error for a malformed reply
        if not replies:
            raise  # the judge has not replied, so its reply is not the cause
        reply = " ".join(replies[-1].text.split())
        kind = "refused by the judge" if REFUSAL.search(reply) and "{" not in reply else "invalid JSON from the judge"
        reason = f"{kind}: {reply[:120]!r} ({type(error).__name__})"
    return {"score": score, "reason": shown(clean(reason)), "note": note, "judge": replies[-1].model if replies else ""}


def _read(metric: BaseMetric, reply: Reply) -> tuple[float | None, str]:
    """A measured metric's score and reason. A score that DeepEval gives without verdicts on all parts is unscored.

    So is what DeepEval reads as a number and is none, or is one of another scale than the judge was asked for.
    """
    from deepeval.metrics import GEval
    from deepeval.metrics.utils import trimAndLoadJson

    reason = str(metric.reason or "")
    if isinstance(metric, GEval):
        said = trimAndLoadJson(reply.text)["score"]
        if isinstance(said, bool):
            return None, f"the judge's score is no number: {json.dumps(said)}"
        if not SCALE[0] <= float(said) <= SCALE[1]:
            return None, f"score out of range: {float(said):g} on a scale of {SCALE[0]} to {SCALE[1]}"
        if 0 < float(said) < 1:
            return None, f"score on another scale: {float(said):g}, where whole numbers up to {SCALE[1]} are asked for"
    if parts := PARTS.get(metric.__name__):
        extracted, verdicts = getattr(metric, parts), metric.verdicts  # type: ignore[attr-defined]
        if not extracted:
            return None, f"the judge found no {parts.removesuffix('s')} in the answer"  # DeepEval gives 1.0
        if len(verdicts) != len(extracted):
            return None, f"the judge left {parts} without a verdict: {len(verdicts)} of {len(extracted)}"
        reason = "; ".join(verdict.reason for verdict in verdicts if verdict.reason)
    score = float(metric.score)  # type: ignore[arg-type]
    if not math.isfinite(score) or not 0 <= score <= 1:
        return None, f"score out of range: {score:g} on a scale of 0 to 1"
    return score, reason


def _metric(definition: Definition, model: DeepEvalBaseLLM) -> BaseMetric:
    """DeepEval's metric. Its threshold is unused: the gate decides, by the spec's `[gate.tier3]`."""
    from deepeval.metrics import AnswerRelevancyMetric, FaithfulnessMetric, GEval
    from deepeval.test_case import SingleTurnParams

    against = SingleTurnParams.RETRIEVAL_CONTEXT if definition.reads == "context" else SingleTurnParams.EXPECTED_OUTPUT
    if definition.steps:
        return GEval(
            name=definition.name,
            evaluation_steps=[FENCE_STEP, *definition.steps],
            evaluation_params=[SingleTurnParams.INPUT, SingleTurnParams.ACTUAL_OUTPUT, against],
            model=model,
            threshold=0.5,
        )
    if definition.reads == "context":
        return FaithfulnessMetric(
            model=model,
            threshold=0.5,
            include_reason=False,  # saves a fourth request per sample, for prose
            eval_mode="llm",
            evaluation_template=faithfulness_template(),
        )
    return AnswerRelevancyMetric(
        model=model,
        threshold=0.5,
        include_reason=False,  # saves a third request per sample, for prose
        eval_mode="llm",  # else DEEPEVAL_EVAL_MODE decides
        evaluation_template=relevancy_template(),
    )


def _model_class(choice: Choice, judge: Judge) -> ModelClass:
    """The judge as a DeepEval custom model, which also records the replies."""
    from deepeval.models import DeepEvalBaseLLM
    from deepeval.models.llms.constants import OPENAI_MODELS_DATA

    known = OPENAI_MODELS_DATA.get(choice.model) if choice.kind == "openai" else None
    options: dict[str, Any] = {"temperature": None} if known and known.supports_temperature is False else {}

    class JudgeModel(DeepEvalBaseLLM):
        def __init__(self, replies: list[Reply]) -> None:
            self.replies = replies
            super().__init__(choice.model)

        def load_model(self, *_: Any, **__: Any) -> DeepEvalBaseLLM:
            return self

        def get_model_name(self, *_: Any, **__: Any) -> str:
            return choice.name

        def generate(self, *_: Any, **__: Any) -> str:
            raise NotImplementedError("PRISM asks its judge concurrently")

        async def a_generate(self, prompt: str, schema: type[BaseModel] | None = None) -> str:
            self.replies.append(await judge.ask(prompt, schema=schema, **options))
            return self.replies[-1].text

        async def a_generate_raw_response(self, prompt: str, top_logprobs: int) -> tuple[Any, None]:
            if choice.kind == "openai" and not (known and known.supports_log_probs):
                raise AttributeError("no log-probabilities")  # after this GEval asks for plain text
            self.replies.append(await judge.ask(prompt, logprobs=True, **options))
            return self.replies[-1].raw, None

    return JudgeModel
