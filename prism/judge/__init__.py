"""What a judge (a language model) grades: the metrics' definitions, the answers, and the grades.

Cheap to import, since tasks name their definitions here; `grading` and `asking` send the requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Definition:
    """A metric that a judge grades: a GEval of this name if it has steps, else DeepEval's own metric of this name.

    `reads` is what an answer is compared with: the reference, the context that it should come from, or neither.
    """

    name: str
    steps: tuple[str, ...] = ()
    version: int = 1  # raise it to grade the same answers again
    reads: Literal["reference", "context", "nothing"] = "reference"

    @property
    def metric(self) -> str:
        """DeepEval's own name of the metric."""
        return f"{self.name} [GEval]" if self.steps else self.name

    @property
    def requests(self) -> int:
        """Requests per sample. DeepEval's own metrics ask for statements (or truths and claims), then for verdicts."""
        return 1 if self.steps else 3 if self.reads == "context" else 2


def _steps(text: str) -> tuple[str, ...]:
    """One step per paragraph."""
    return tuple(" ".join(step.split()) for step in text.strip().split("\n\n"))


MEDICAL_CORRECTNESS = Definition(
    "Medical Correctness",
    _steps("""
        Take the expected output as the truth. List for yourself the medical facts in it that the input asks for.

        Check which of these facts the actual output states. Other words, synonyms, abbreviations, another order and
        additional facts that are true are no fault.

        Look for statements in the actual output that contradict the expected output or established medical knowledge.
        If the central fact is wrong (another organ, drug, cause, mechanism or direction), the score is 0 to 2, however
        detailed, fluent or sure of itself the answer is.

        If nothing is wrong but about half of the facts are missing, the score is about 5. If all are there and nothing
        is wrong, it is 9 or 10. Neither length nor style raises or lowers it.
    """),
)
ANSWER_CORRECTNESS = Definition(
    "Answer Correctness",
    _steps("""
        Take the expected output as the truth. List for yourself the facts in it that the input asks for.

        Check which of these facts the actual output states. Other words, synonyms, abbreviations, another order and
        additional facts that are true are no fault.

        Look for statements in the actual output that contradict the expected output. If the central fact is wrong
        (another name, number, unit, date, cause or direction), the score is 0 to 2, however detailed, fluent or sure of
        itself the answer is.

        If nothing is wrong but about half of the facts are missing, the score is about 5. If all are there and nothing
        is wrong, it is 9 or 10. Neither length nor style raises or lowers it.
    """),
)
SENTIMENT_CORRECTNESS = Definition(
    "Sentiment Correctness",
    _steps("""
        The expected output is the right sentiment of the financial text in the input: bullish, bearish or neutral.

        Find the one sentiment that the actual output settles on. Other words for it count: positive or optimistic about
        the price is bullish, negative or pessimistic is bearish.

        If it is the expected sentiment, the score is 10. If the actual output settles on another one, or names none,
        the score is 0, however well it argues.

        If it hedges between the expected sentiment and another one, the score is 5. Neither length nor style raises or
        lowers the score.
    """),
)
SUPPORTED = Definition(
    "Answer Supported by Context",
    _steps("""
        Take the retrieval context as the only source there is. What you know besides, and whether the answer is right
        in the world, do not count.

        List for yourself what the actual output claims in reply to the input: each number with its unit, scale, sign
        and period, each name, each cause. A quotation in it is evidence, not a claim.

        Check each claim against the retrieval context. A number is supported where it stands there for the same line
        and period, or follows from numbers there by the calculation that the actual output states.

        If a claim is not there, is of another line or period, or contradicts the context, the score is 0 to 3. If it
        is there but the scale, sign or unit is wrong, it is 3 to 5. If everything is supported, it is 9 or 10.

        If the actual output says that it is not stated, the score is 10 where the retrieval context indeed does not
        hold the answer, and 0 where it does. Neither length nor style raises or lowers it.
    """),
    reads="context",
)
ANSWER_RELEVANCY = Definition("Answer Relevancy", reads="nothing")
FAITHFULNESS = Definition("Faithfulness", reads="context")
DEFINITIONS = {
    definition.metric: definition
    for definition in (
        MEDICAL_CORRECTNESS,
        ANSWER_CORRECTNESS,
        SENTIMENT_CORRECTNESS,
        SUPPORTED,
        ANSWER_RELEVANCY,
        FAITHFULNESS,
    )
}


@dataclass(frozen=True)
class Case:
    """One answer to grade."""

    id: str
    question: str
    answer: str
    reference: str
    context: str = ""  # what the answer should come from, if that is graded


@dataclass(frozen=True)
class Grade:
    """A score in [0, 1] with the judge's reason, or None with the reason why there is no score."""

    id: str
    score: float | None
    reason: str
