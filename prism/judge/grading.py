"""A language model grades answers: DeepEval's metrics, asked concurrently, each judgement paid for once.

The question, the answer and the reference are text that somebody else wrote. They reach the judge fenced as data, and
what the judge could not grade is unscored with its reason, never 0.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from prism.errors import PrismError
from prism.judge import ANSWER_RELEVANCY, FAITHFULNESS, Case, Definition, Grade, ledger
from prism.judge.asking import Choice, Judge, NotGraded, Reply, connect
from prism.judge.fencing import (
    FENCE_STEP,
    FENCING,
    LONGEST,
    Lines,
    clean,
    faithfulness_template,
    fence,
    relevancy_template,
)
from prism.judge.ledger import Ledger
from prism.judge.spending import Spending, Tokens
from prism.store import Store, digest

if TYPE_CHECKING:
    from deepeval.metrics import BaseMetric
    from deepeval.models import DeepEvalBaseLLM

    Asked = Callable[[list[Reply]], DeepEvalBaseLLM]

EMPTY = "empty answer"  # why one is graded 0 unasked
TOP_LOGPROBS = 20  # G-Eval weighs the score by the likelihoods of the numbers; OpenAI tells of 20
PARTS = {ANSWER_RELEVANCY.metric: "statements", FAITHFULNESS.metric: "claims"}  # what each verdict is about
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
    """One grade a case, in their order, each asked for once in the store's life.

    What the judge answered is kept at once, graded or unscored, so a killed run goes on where it was. What it did not
    answer (no reply in all attempts, budget reached) is unscored in this run and asked for again by the next. An empty
    answer is 0 without asking: were it unscored, a model would gain by falling silent.
    `spending` holds budget and account, over several calls if it is shared. `repeat` tells apart the askings of a
    test-retest. Raises JudgeError where the judge cannot be asked at all.
    """
    spending = spending or Spending(choice.price)
    identity = judgement_identity(choice, definition)
    keys = [_key(case, definition, repeat) for case in cases]
    unscored = {key: reason for key, case in zip(keys, cases) if (reason := _ungradable(definition, case))}
    with ledger.held(store, identity, f"{definition.metric} by {choice.name}") as kept:
        asked = {key: case for key, case in zip(keys, cases) if key not in unscored and not _is_empty(case)}
        left = {key: case for key, case in asked.items() if key not in kept.entries}
        advance(len(cases) - len(left))
        if left:
            _opt_out()
            unscored |= asyncio.run(_grade_all(choice, definition, left, kept, spending, advance))
        found = kept.entries

    def graded(key: str, case: Case) -> Grade:
        if key in unscored:
            return Grade(case.id, None, unscored[key])
        if _is_empty(case):
            return Grade(case.id, 0.0, EMPTY)
        return Grade(case.id, found[key]["score"], _reason(found[key]))

    return [graded(key, case) for key, case in zip(keys, cases)]


def estimate(choice: Choice, definition: Definition, cases: Sequence[Case], store: Store, repeats: int = 1) -> Tokens:
    """What grading these is likely to take; what the store already holds costs nothing."""
    found = ledger.read(store, judgement_identity(choice, definition))
    asked = [case for case in cases if not _ungradable(definition, case) and not _is_empty(case)]
    left = {_key(case, definition, repeat): case for repeat in range(repeats) for case in asked}
    return sum((_expected(definition, case) for key, case in left.items() if key not in found), Tokens())


def unscored_reasons(grades: Sequence[Grade]) -> dict[str, int]:
    """How many grades are missing for which reason, the reasons without what is particular to a sample."""
    counts: dict[str, int] = {}
    for found in grades:
        if found.score is None:
            kind = found.reason.split(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def judgement_identity(choice: Choice, definition: Definition) -> dict[str, Any]:
    """What determines a judgement, besides the texts judged: the judge, the metric, and DeepEval, whose prompts it is."""
    return {
        "judge": choice.identity(),
        "metric": [definition.metric, definition.version, definition.steps],
        "deepeval": version("deepeval"),
        "fencing": [FENCING, FENCE_STEP, LONGEST],
    }


def _key(case: Case, definition: Definition, repeat: int) -> str:
    texts = [clean(case.question), clean(case.answer), clean(case.reference) if definition.reads == "reference" else ""]
    texts += [clean(case.context)] if definition.reads == "context" else []
    return digest([texts, repeat])


def _ungradable(definition: Definition, case: Case) -> str:
    """Why there is nothing to ask the judge; empty where there is."""
    if definition.reads != "nothing" and not getattr(case, definition.reads).strip():
        return f"empty {definition.reads}"
    return ""


def _is_empty(case: Case) -> bool:
    return not case.answer.strip()


def _reason(entry: Mapping[str, Any]) -> str:
    return entry["reason"] + (f" ({entry['note']})" if entry.get("note") else "")


def _expected(definition: Definition, case: Case) -> Tokens:
    """A token is about four characters of English; DeepEval's own words around a sample are about 1,200."""
    texts = sum(min(len(text), LONGEST) for text in (case.question, case.answer, case.reference, case.context))
    characters = 1_200 + len(FENCE_STEP) + sum(map(len, definition.steps)) + texts
    return Tokens(definition.requests, definition.requests * characters // 4, definition.requests * 100)


async def _grade_all(
    choice: Choice,
    definition: Definition,
    left: Mapping[str, Case],
    kept: Ledger,
    spending: Spending,
    advance: Callable[[int], object],
) -> dict[str, str]:
    """Ask for every case, and return why some have no judgement in the ledger. As many workers as may be in flight."""
    queue = iter(left.items())
    reasons: dict[str, str] = {}

    async def work(asked: Asked) -> None:
        for key, case in queue:
            expected = _expected(definition, case)
            if not spending.allows(expected):
                reasons[key] = f"budget reached: {spending.budget}; the next run goes on here"
            else:
                with spending.reserve(expected):
                    try:
                        kept.add(key, **await _judgement(definition, asked, case))
                    except NotGraded as error:
                        reasons[key] = error.reason
            advance(1)

    async with connect(choice, spending) as judge:
        asked = _asked(choice, judge)
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(choice.in_flight, len(left))):
                    workers.create_task(work(asked))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # 32 workers meet the same locked door
    return reasons


async def _judgement(definition: Definition, asked: Asked, case: Case) -> dict[str, Any]:
    """What is kept of one sample: score, reason and note. Raises NotGraded where the judge has not answered."""
    from deepeval.errors import ContextWindowExceededError
    from deepeval.test_case import LLMTestCase

    shown, note = fence(case)
    replies: list[Reply] = []
    metric = _metric(definition, asked(replies))
    test = LLMTestCase(
        input=shown.question,
        actual_output=shown.answer,
        expected_output=shown.reference,
    )
    test.retrieval_context = Lines([shown.context]) if shown.context else None  # type: ignore[assignment]
    test.multimodal = False  # DeepEval would take "[DEEPEVAL:IMAGE:…]" in an answer for an image to load
    score: float | None = None
    try:
        await metric.a_measure(test, _show_indicator=False)
    except PrismError:
        raise
    except ContextWindowExceededError:
        reason = "too long for the judge's context window"
    except NotGraded as error:
        if not error.final:
            raise
        reason = error.reason
    except Exception as error:  # over a malformed reply DeepEval raises what it stumbles on, or a bare Exception
        if not replies:
            raise  # the judge has said nothing yet, so it is not its reply that cannot be read
        said = " ".join(replies[-1].text.split())
        kind = "refused by the judge" if REFUSAL.search(said) and "{" not in said else "invalid JSON from the judge"
        reason = f"{kind}: {said[:120]!r} ({type(error).__name__})"
    else:
        score, reason = _read(metric)
    return {"score": score, "reason": clean(reason), "note": note, "judge": replies[-1].model if replies else ""}


def _read(metric: BaseMetric) -> tuple[float | None, str]:
    """A measured metric's score and reason. What DeepEval would round into a score without grounds is unscored."""
    reason = str(metric.reason or "")
    if parts := PARTS.get(metric.__name__):
        said, verdicts = getattr(metric, parts), metric.verdicts  # type: ignore[attr-defined]
        if not said:
            return None, f"the judge found no {parts.removesuffix('s')} in the answer"  # DeepEval: 1.0
        if len(verdicts) != len(said):
            return None, f"the judge left {parts} without a verdict: {len(verdicts)} of {len(said)}"
        reason = "; ".join(verdict.reason for verdict in verdicts if verdict.reason)
    score = float(metric.score)  # type: ignore[arg-type]
    if not math.isfinite(score) or not 0 <= score <= 1:
        return None, f"score out of range: {score:g} on a scale of 0 to 1"
    return score, reason


def _metric(definition: Definition, model: DeepEvalBaseLLM) -> BaseMetric:
    """DeepEval's metric. Its threshold is not read: the gate decides, by the spec's `[gate.tier3]`."""
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
            top_logprobs=TOP_LOGPROBS,
        )
    if definition.reads == "context":
        return FaithfulnessMetric(
            model=model,
            threshold=0.5,
            include_reason=False,  # a fourth request a sample, for prose
            eval_mode="llm",
            evaluation_template=faithfulness_template(),
        )
    return AnswerRelevancyMetric(
        model=model,
        threshold=0.5,
        include_reason=False,  # a third request a sample, for prose
        eval_mode="llm",  # else DEEPEVAL_EVAL_MODE decides
        evaluation_template=relevancy_template(),
    )


def _asked(choice: Choice, judge: Judge) -> Asked:
    """The judge as DeepEval sees it: its documented class for models of one's own, noting what was replied."""
    from deepeval.models import DeepEvalBaseLLM
    from deepeval.models.llms.constants import OPENAI_MODELS_DATA

    known = OPENAI_MODELS_DATA.get(choice.model) if choice.kind == "openai" else None
    options = {"temperature": None} if known and known.supports_temperature is False else {}

    class Asked(DeepEvalBaseLLM):
        def __init__(self, replies: list[Reply]) -> None:
            self.replies = replies
            super().__init__(choice.model)

        def load_model(self, *_: Any, **__: Any) -> DeepEvalBaseLLM:
            return self

        def get_model_name(self, *_: Any, **__: Any) -> str:
            return choice.name

        def generate(self, *_: Any, **__: Any) -> str:
            raise NotImplementedError("PRISM asks its judge concurrently")

        async def a_generate(self, prompt: str, schema: object = None) -> str:
            self.replies.append(await judge.ask(prompt, **options))
            return self.replies[-1].text

        async def a_generate_raw_response(self, prompt: str, top_logprobs: int) -> tuple[Any, None]:
            if not (known and known.supports_log_probs):
                raise AttributeError("no log-probabilities")  # what GEval waits for before it asks for plain text
            self.replies.append(await judge.ask(prompt, logprobs=True, top_logprobs=top_logprobs, **options))
            return self.replies[-1].raw, None

    return Asked


def _opt_out() -> None:
    """DeepEval reports its use and reads .env files at its import, unless it is told not to before."""
    os.environ["DEEPEVAL_TELEMETRY_OPT_OUT"] = "1"
    os.environ["DEEPEVAL_DISABLE_DOTENV"] = "1"
