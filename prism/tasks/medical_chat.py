"""Phase 2: a medical question, answered in one sentence.

Rows: `medalpaca/medical_meadow_medical_flashcards` (33,955 flashcards of the Anki decks of medical students, rewritten
as questions by GPT-3.5), columns `instruction` (the same in every row; the system prompt replaces it), `input` and
`output`, which a spec maps with `[data].columns = { question = "input", answer = "output" }`; or any file of questions
and answers. Rows are grouped by `term` if they have one, because two books define a term in much the same words. The
optional column `topic` replaces "medical" in the system prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from prism.judge import ANSWER_RELEVANCY, MEDICAL_CORRECTNESS
from prism.metrics import coverage, overlap, patterns
from prism.rows import Example, Prediction, Row

VERSION = 2
COLUMNS = ("question", "answer")
SYSTEM = "Answer the {topic} question in one sentence."  # every word costs compute in each training step
LEXICON = coverage.LEXICONS / "medical.txt"


def example(row: Row, id: str) -> Example:
    question = " ".join(str(row["question"]).split())
    group = " ".join(str(row.get("term") or question).lower().split())
    topic = " ".join(str(row.get("topic") or "").split()) or "medical"
    messages = ({"role": "system", "content": SYSTEM.format(topic=topic)}, {"role": "user", "content": question})
    return Example(id, messages, str(row["answer"]).strip(), group)


METRICS = (*overlap.METRICS, coverage.metric(LEXICON), *patterns.metrics(LEXICON))
JUDGED = (MEDICAL_CORRECTNESS, ANSWER_RELEVANCY)


def missing(examples: Sequence[Example], answers: Sequence[str]) -> list[list[str]]:
    return coverage.missing(coverage.load_lexicon(LEXICON), examples, answers)


def details(examples: Sequence[Example], answers: Sequence[str]) -> dict:
    most_missed = coverage.most_missed(coverage.load_lexicon(LEXICON), examples, answers)
    return {"most_missed": most_missed, "unread": overlap.unread(examples)}


def failures(examples: Sequence[Example], baseline: Sequence[Prediction], tuned: Sequence[Prediction]) -> dict:
    return patterns.analysis(examples, baseline, tuned, coverage.load_lexicon(LEXICON))
