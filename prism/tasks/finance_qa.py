"""Phase 3: a question about a filing, answered from its table and paragraphs with a quote of the evidence.

Rows: `next-tat/TAT-QA` (CC BY 4.0): one row per context, with `table`, `paragraphs` and nested `questions`, each with
`answer`, `answer_type` (span, multi-span, arithmetic, count; PRISM adds unanswerable), `scale` and `derivation`. Or one
row per question: `report` (text), `question`, `answer`, and optionally `answer_type`, `scale`, `context` (shared by
questions) and `evidence`. TAT-QA marks no evidence, so training quotes the row or sentence that contains most of the
answer. The context is the system message, the question the user message.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from prism.errors import DataError, first_problem
from prism.judge import FAITHFULNESS, SUPPORTED
from prism.metrics import arithmetic, coverage, finance, overlap, tatqa
from prism.metrics.finance import TYPES
from prism.metrics.finance_answers import NOT_STATED, read_answer
from prism.rows import Example, Row, filings

if TYPE_CHECKING:
    from prism.spec import Spec

VERSION = 1
COLUMNS = ("report", "question", "answer")
LISTS = ("answer",)
SYSTEM = (  # every word costs compute in each training step
    'Answer from this report, with the scale (several answers with ";") or with a calculation, and quote the evidence in '
    'the next line. If it is not there: "not stated".'
)
SCALES = ("", "thousand", "million", "billion", "percent")
LEXICON = coverage.LEXICONS / "financial.txt"
TEMPLATE = 40  # tokens of a chat template around the system and user messages
_NUMBER = re.compile(r"[-+]?[0-9]{1,290}(?:\.[0-9]+)?|[-+]?\.[0-9]+")
QUOTED = 20  # words; of a longer sentence, this many around the answer are quoted


class _Table(BaseModel):
    uid: str | int
    table: list[Any]


class _Paragraph(BaseModel):
    text: str
    order: int


class _Question(BaseModel):
    question: str


class _Context(BaseModel):
    """What `rows` reads of a published row."""

    table: _Table
    paragraphs: list[_Paragraph]
    questions: list[_Question]


def rows(row: Row, spec: Spec) -> list[Row]:
    """One row per question, with the report cut to the spec's window. Rows without nested questions stay the same.

    Raises DataError if what is nested has not the layout of TAT-QA.
    """
    if not isinstance(row.get("questions"), list | tuple):
        return [row]
    try:
        context = _Context.model_validate(row)
    except ValidationError as error:
        raise DataError(f"{first_problem(error)}; correct the row, as TAT-QA has it") from None
    name = str(context.table.uid)
    paragraphs = [part.text for part in sorted(context.paragraphs, key=lambda part: part.order)]
    window = spec.model.max_seq_length - spec.generate.get("max_new_tokens", 0) - TEMPLATE - filings.tokens(SYSTEM)
    found = []
    for nested, asked in zip(row["questions"], context.questions):
        question = " ".join(asked.question.split())
        room = window - filings.tokens(question)
        report = filings.render(context.table.table, paragraphs, question, room, name)
        columns = ("answer", "answer_type", "scale", "derivation", "evidence")
        known = {column: nested[column] for column in columns if nested.get(column) is not None}
        found.append({"context": name, "report": report, "question": question, **known})
    return found


def example(row: Row, id: str) -> Example:
    kind = str(row.get("answer_type") or "span")
    scale = str(row.get("scale") or "")
    if kind not in TYPES or scale not in SCALES:
        wrong, known = (kind, TYPES) if kind not in TYPES else (scale, SCALES[1:])
        raise DataError(f"row {id}: {wrong!r} is not one of {', '.join(known)}; fix the row or map the column")
    report, question = str(row["report"]), " ".join(str(row["question"]).split())
    answer = _answer(row["answer"], kind, id)
    reference, needed = _reference(row, kind, scale, answer, report, question)
    return Example(
        id,
        _messages(report, question),
        reference,
        group=str(row.get("context") or hashlib.sha256(report.encode()).hexdigest()),
        # Lists, which JSON gives back: rows of another type would be read anew in each run.
        facts={"type": kind, "scale": scale, "answer": [*answer], "context": report, "needed": [*needed]},
    )


def _messages(report: str, question: str) -> tuple[dict[str, str], dict[str, str]]:
    return {"role": "system", "content": f"{SYSTEM}\n\n{report}".strip()}, {"role": "user", "content": question}


def _answer(value: Any, kind: str, id: str) -> tuple[str, ...]:
    """The gold spans; a count is an integer, which TAT-QA writes as text."""
    if kind == "unanswerable":
        return (NOT_STATED,)
    spans = tuple(str(part).strip() for part in (value if isinstance(value, list | tuple) else [value]))
    if not any(spans):
        raise DataError(f"row {id}: answer {value!r} is empty; fill it, or make the row's answer_type unanswerable")
    for span in spans:
        if finance.is_foreign(span) and not any(map(str.isalpha, span)):
            raise DataError(f"row {id}: answer {span!r} is in another locale; write it as 1,234.56")
    if kind in tatqa.CALCULATED:
        amount = _amount(spans[0])
        if amount is None:
            name = "a count" if kind == "count" else "a calculation"
            raise DataError(f"row {id}: answer {value!r} of {name} is not a number; fix it or the row's answer_type")
        if kind == "count" and not amount.is_integer():
            raise DataError(f"row {id}: answer {value!r} of a count is not a whole number; fix it")
        return (str(int(amount)),) if kind == "count" else spans
    return spans


def _amount(text: str) -> float | None:
    """The number that an answer is, in its own scale and with its percent sign left out; None if it is none."""
    read = read_answer(text)
    number = read.unscaled.rstrip("% ").replace(",", "").replace("$", "")
    negative = number.startswith("(") and number.endswith(")")
    found = _NUMBER.fullmatch(number[1:-1] if negative else number)
    return float(found[0]) * (-1 if negative else 1) if found else None


def _reference(
    row: Row, kind: str, scale: str, answer: tuple[str, ...], report: str, question: str
) -> tuple[str, tuple[str, ...]]:
    """The training target: the answer, or a calculation of it, and the evidence in quotation marks. And what the answer
    needs of the evidence: its spans, a calculation's numbers, or what is counted."""
    if kind == "unanswerable":
        return NOT_STATED, ()
    text, needed = "; ".join(answer), list(answer)
    own = "percent" if "%" in text else read_answer(text).scale  # "$3.0 million" includes its scale
    asked = scale or own
    scale = "" if own == scale else scale
    if kind == "arithmetic" and (expression := _expression(str(row.get("derivation") or ""), answer[0])):
        text, needed, scale = expression, arithmetic.operands(expression), asked
    elif kind == "count":
        needed = [part.strip() for part in str(row.get("derivation") or "").split("##")]
    quote = str(row.get("evidence") or "") or _cut(filings.evidence(report, question, needed), needed)
    return "\n".join(filter(None, (f"{text} {scale}".strip(), f'"{quote}"' if quote else ""))), tuple(needed)


def _expression(derivation: str, answer: str) -> str:
    """The derivation as an expression that evaluates to the answer in its scale; empty if it does not."""
    expression, amount = arithmetic.spaced(derivation), _amount(answer)
    for candidate in (expression, f"{expression} * 100", f"({expression}) * 100"):
        value = arithmetic.compute(candidate)
        if value is not None and amount is not None and math.isclose(value, amount, abs_tol=0.005):
            return candidate
    return ""


def _cut(evidence: str, needed: Sequence[str]) -> str:
    words = evidence.split()
    if len(words) <= QUOTED or " | " in evidence:
        return evidence
    at = next((len(evidence[: evidence.index(text)].split()) for text in needed if text in evidence), 0)
    first = max(0, min(at - QUOTED // 4, len(words) - QUOTED))
    return " ".join(words[first : first + QUOTED])


# --- controls: the same adapter with missing, wrong or reordered evidence -------------------------------------------


def _without_context(example: Example, examples: Sequence[Example]) -> Example:
    return replace(example, messages=_messages("", example.question))


def _other_context(example: Example, examples: Sequence[Example]) -> Example:
    """The report of the next example from another filing, searched from a position that depends on the id."""
    start = int(hashlib.sha256(example.id.encode()).hexdigest(), 16) % len(examples)
    for other in (*examples[start:], *examples[:start]):
        if other.group != example.group:
            return replace(example, messages=_messages(other.facts["context"], example.question))
    return _without_context(example, examples)


def _shuffled_rows(example: Example, examples: Sequence[Example]) -> Example:
    report = filings.shuffled(example.facts["context"], random.Random(example.id))
    return replace(example, messages=_messages(report, example.question))


CONTROLS = {"without_context": _without_context, "other_context": _other_context, "shuffled_rows": _shuffled_rows}
FIXED = {"always_not_stated": NOT_STATED}

METRICS = (*finance.TIER1, overlap.ROUGE_L, coverage.metric(LEXICON), *finance.TIER2)
JUDGED = (SUPPORTED, FAITHFULNESS)


def missing(examples: Sequence[Example], answers: Sequence[str]) -> list[list[str]]:
    return coverage.missing(coverage.load_lexicon(LEXICON), examples, answers)


def details(examples: Sequence[Example], answers: Sequence[str]) -> dict:
    cut = sum(map(finance.is_cut, examples))
    return {"by_type": finance.by_type(examples, answers), "cut": cut, "unread": overlap.unread(examples)}
