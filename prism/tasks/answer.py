"""Any question with a gold answer in words, described by the spec alone: its table [answer] holds prompt and column.

The answers are scored as phase 2's are: ROUGE and content gain, keyword coverage and rates of failure patterns if the
spec names a lexicon, and a judge's correctness. Short gold answers are also compared word by word, as SQuAD's are.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from prism.errors import DataError, SpecError
from prism.judge import ANSWER_CORRECTNESS, ANSWER_RELEVANCY
from prism.metrics import coverage, overlap, patterns, short_answers
from prism.rows import Example, Row
from prism.spec import Spec
from prism.tasks import Task, prompts
from prism.verdicts.controls import most_frequent

VERSION = 1
METRICS = (*short_answers.METRICS, *overlap.METRICS)  # of every spec; a lexicon adds coverage and failure patterns
JUDGED = (ANSWER_CORRECTNESS, ANSWER_RELEVANCY)


def from_spec(spec: Spec) -> Task:
    """The task of a spec's [answer]. Raises SpecError if its prompt or its lexicon cannot be used."""
    table = spec.answer
    if table is None:
        raise SpecError('task = "answer": needs the table [answer] with a prompt; add it')
    filled = prompts.read(spec, "answer", table.prompt, table.system, table.column, {})
    task = Task(
        name="answer",
        version=VERSION,
        columns=filled.columns,
        example=partial(_example, filled),
        metrics=METRICS,
        judged=JUDGED,
        named=filled.named,
        contenders={"most_frequent": most_frequent},
    )
    return _covered(task, spec.folder / table.lexicon, table.lexicon) if table.lexicon else task


def _example(filled: prompts.Prompts, row: Row, id: str) -> Example:
    return Example(id, filled.messages(row), prompts.value(row, filled.gold), filled.group_of(row, id))


def _covered(task: Task, path: Path, name: str) -> Task:
    """The task with the hooks that a lexicon adds."""
    if not path.is_file():
        raise SpecError(f'[answer] lexicon = "{name}": there is no {path}; write the path from the spec\'s own folder')
    try:
        terms = coverage.load_lexicon(path)
    except DataError as error:
        raise SpecError(f'[answer] lexicon = "{name}": {error}') from None
    return replace(
        task,
        metrics=(*METRICS, coverage.metric(path), *patterns.metrics(path)),
        lexicon=path,
        missing=partial(coverage.missing, terms),
        details=lambda examples, answers: {"most_missed": coverage.most_missed(terms, examples, answers)},
        failures=partial(patterns.analysis, lexicon=terms),
    )
