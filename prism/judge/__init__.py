"""What a language model is asked to grade: the metrics' definitions, the answers, and the grades.

Light to import, since tasks name their definitions here; the asking is in `grading` and `asking`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """What is graded. With steps it is a GEval of that name, without steps DeepEval's answer relevancy."""

    name: str
    steps: tuple[str, ...] = ()
    version: int = 1  # raise it when the same answers should be graded anew

    @property
    def metric(self) -> str:
        """DeepEval's own name of the metric."""
        return f"{self.name} [GEval]" if self.steps else self.name

    @property
    def needs_reference(self) -> bool:
        return bool(self.steps)

    @property
    def requests(self) -> int:
        """Requests a sample: answer relevancy first asks for the statements, then for a verdict on each."""
        return 1 if self.steps else 2


def _steps(text: str) -> tuple[str, ...]:
    """One step a paragraph."""
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
ANSWER_RELEVANCY = Definition("Answer Relevancy")
DEFINITIONS = {found.metric: found for found in (MEDICAL_CORRECTNESS, SENTIMENT_CORRECTNESS, ANSWER_RELEVANCY)}


@dataclass(frozen=True)
class Case:
    """One answer to grade."""

    id: str
    question: str
    answer: str
    reference: str


@dataclass(frozen=True)
class Grade:
    """A score in [0, 1] with the judge's reason, or None with the reason why there is none."""

    id: str
    score: float | None
    reason: str
