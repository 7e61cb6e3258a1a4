"""Any sorting into labels, described by the spec alone: its table [classify] holds labels, prompt and gold column.

The answers are read, scored and set beside the classical and the label-likelihood control as phase 1's are. Labels are
the spec's own spelling; in rows and answers their letter case does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from prism.errors import DataError, SpecError
from prism.metrics import classification
from prism.metrics.labels import read_label
from prism.rows import Example, Row
from prism.spec import Spec
from prism.store import digest
from prism.tasks import Task, prompts

VERSION = 1
METRICS = classification.counted((), lambda answer: None)  # of any labels, for what needs no more than sums
TAKEN = ("unparsable", "accuracy", "macro avg", "micro avg", "weighted avg")  # rows of the reports' tables of labels


def from_spec(spec: Spec) -> Task:
    """The task of a spec's [classify]. Raises SpecError if its labels or its prompt cannot be used."""
    table = spec.classify
    if table is None:
        raise SpecError('task = "classify": needs the table [classify] with labels and a prompt; add it')
    labels = _labels(table.labels, table.descriptions)
    described = "\n".join(f"{label}: {text}" for label, text in table.descriptions.items())
    given = {"labels": ", ".join(labels)} | ({"descriptions": described} if described else {})
    if not described and "{descriptions}" in f"{table.prompt}{table.system}":
        raise SpecError("[classify] prompt: {descriptions} needs the table [classify.descriptions]; add it")
    filled = prompts.read(spec, "classify", table.prompt, table.system, table.column, given)
    spellings = {label.casefold(): label for label in labels}
    parse = partial(_parse, spellings)
    return Task(
        name="classify",
        version=int(digest([VERSION, labels])[:8], 16),  # other labels read the same answers differently
        columns=filled.columns,
        example=partial(_example, filled, spellings),
        metrics=classification.counted(labels, parse),
        labels=labels,
        parse=parse,
        named=filled.named,
        details=partial(classification.details, labels, parse),
    )


def _labels(named: Sequence[str], descriptions: Mapping[str, str]) -> tuple[str, ...]:
    labels = tuple(named or descriptions)
    place = "[classify] labels" if named else "[classify.descriptions]"
    if len(labels) < 2:
        raise SpecError(f"{place} = {list(labels)}: a choice needs at least two labels; add some")
    spellings: dict[str, str] = {}
    for label in labels:
        if not label.strip():
            raise SpecError(f"{place}: one label is empty; fill it, or delete it")
        if label != " ".join(label.split()):
            raise SpecError(f"{place}: {label!r} has spaces around it, or several in a row; delete them")
        if label.casefold() in TAKEN:
            raise SpecError(f'{place}: "{label}" is a row of the reports\' tables; write the label in another way')
        if other := spellings.get(label.casefold()):
            why = "differ in case only" if other != label else "are the same label"
            raise SpecError(f'{place}: "{other}" and "{label}" {why}; delete one')
        spellings[label.casefold()] = label
    if named and descriptions and (odd := sorted({*labels} ^ {*descriptions})):
        raise SpecError(
            f'[classify.descriptions]: "{odd[0]}" is not in both labels and descriptions; correct it, or delete labels'
        )
    return labels


def _parse(spellings: Mapping[str, str], answer: str) -> str | None:
    """The label that an answer is, whatever it says ("none of these", "not urgent"), else the one that is read in it."""
    return _exactly(spellings, answer) or read_label(answer, tuple(spellings.values()))


def _exactly(spellings: Mapping[str, str], text: str) -> str | None:
    return spellings.get(" ".join(text.split()).casefold())


def _example(filled: prompts.Prompts, spellings: Mapping[str, str], row: Row, id: str) -> Example:
    written = prompts.value(row, filled.gold)
    label = _exactly(spellings, written)
    if label is None:
        raise DataError(
            f'{filled.gold} = "{written}": not one of the labels {", ".join(spellings.values())}; correct the row, or add '
            f"it to [classify] labels"
        )
    return Example(id, filled.messages(row), label, filled.group_of(row, id))
