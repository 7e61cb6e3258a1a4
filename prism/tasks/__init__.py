"""Tasks, one module each: how a row becomes messages, how an answer is parsed, which metrics score it.

A task module defines the fields of `Task` as constants in capitals or as functions: `COLUMNS`, `VERSION`, `METRICS` and
`example` always, the others if needed. `financial_sentiment.py` is the shortest complete example. A module whose fields
follow from the spec (`classify`, `answer`) defines `from_spec` instead, which returns the `Task`, and `METRICS`.

The module is one of this folder, or a file beside the spec: `task = "./my_task.py"`. Of either, the digest of the
evaluation holds the `VERSION`, not the source: raise it if the same rows give other questions, or the same answers
other readings, so that runs before and after are not compared.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import pkgutil
import posixpath
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from prism.errors import DataError, PrismError, ScoresError, SpecError
from prism.judge import Definition
from prism.metrics import Metric, coverage, every_sample, judged, patterns, semantic
from prism.rows import Example, Prediction, Row
from prism.spec import Spec
from prism.store import file_digest
from prism.verdicts.scores import Scores


def _same_row(row: Row, spec: Spec) -> list[Row]:
    return [row]


def _no_details(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Task:
    """The hooks of a task module, with their defaults; this is their only list."""

    name: str
    version: int  # raise it if the same rows give other questions, or the same answers are parsed differently
    columns: Sequence[str]  # the columns that it reads; [data].columns of a spec maps other names to them
    example: Callable[[Row, str], Example]  # (row, id); raises DataError with the invalid value
    metrics: Sequence[Metric]  # they get the raw answers
    judged: Sequence[Definition] = ()  # graded by the judge; their metrics are tier 3
    is_judged: Callable[[Example], bool] = every_sample  # whether the judge grades the answers to an example
    # The closed set of labels, and the function that finds the label of an answer; they enable the classical and the
    # label-likelihood controls.
    labels: Sequence[str] = ()
    parse: Callable[[str], str | None] | None = None
    images: Sequence[
        str
    ] = ()  # the columns that hold images, each of which `example` gets as the path of a prepared one
    lists: Sequence[str] = ()  # the columns of which a value may be a list of texts
    named: Mapping[str, str] = field(default_factory=dict)  # by column that the spec names, where and how it does
    rows: Callable[[Row, Spec], list[Row]] = _same_row  # splits a published row with several questions
    # By control name: a function of (example, all held-out examples) that returns the example with missing or different
    # evidence, which the tuned model answers as well.
    controls: Mapping[str, Callable[[Example, Sequence[Example]], Example]] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)  # by control name: its one answer to every question
    # By control name: a function of (training, held out) that returns the answers of what learns without the model.
    contenders: Mapping[str, Callable[[Sequence[Example], Sequence[Example]], list[str]]] = field(default_factory=dict)
    lexicon: Path | None = None  # whose terms an answer should name; a know-nothing contender lists the commonest
    # For the reports: tables and the terms missing in each answer, from (examples, answers), and failure patterns, from
    # (examples, baseline, tuned).
    details: Callable[[Sequence[Example], Sequence[str]], dict[str, Any]] = _no_details
    missing: Callable[[Sequence[Example], Sequence[str]], list[list[str]]] | None = None
    failures: Callable[[Sequence[Example], Sequence[Prediction], Sequence[Prediction]], dict[str, Any]] | None = None
    source: str = ""  # set by `load_task`: the digest of a file beside the spec, for the tables that the store keeps


def load_task(spec: Spec) -> Task:
    """Load the task of a spec. Raises SpecError if there is no such task, if it lacks a hook, or if its file fails."""
    module = _module(spec.task, spec.folder)
    place = spec.task if is_file(spec.task) else f"prism/tasks/{spec.task}.py"
    if make := getattr(module, "from_spec", None):
        task = _made(make, spec, place)
        _require_metrics(spec.task, place, getattr(module, "METRICS", None))  # what `prism compare` reads
        _require_metrics(spec.task, place, task.metrics)
        return _guarded(replace(task, name=spec.task, source=_source(module)))
    given = {hook.name: found for hook in fields(Task) if (found := _hook(module, hook.name)) is not None}
    lacking = [hook.name for hook in fields(Task) if hook.name not in given and hook.name != "name" and _required(hook)]
    if lacking and "example" in lacking and not is_file(spec.task):
        raise _unknown(spec.task)
    if lacking:
        raise SpecError(f'task = "{spec.task}": {place} has no {_attribute(lacking[0])}; add it')
    _require_metrics(spec.task, place, given["metrics"])
    return _guarded(Task(**{**given, "name": spec.task, "source": _source(module)}))


def _made(make: Callable[[Spec], Any], spec: Spec, place: str) -> Task:
    """The task that a module's `from_spec` returns."""
    try:
        task = make(spec)
    except SpecError:
        raise
    except (Exception, SystemExit) as error:  # whatever the file may raise
        if not is_file(spec.task):
            raise
        raise SpecError(f'task = "{spec.task}": {place} from_spec fails ({_why(error)}); correct it') from None
    if not isinstance(task, Task):
        raise SpecError(
            f'task = "{spec.task}": {place} from_spec returns {type(task).__name__}, not a Task; return '
            f"prism.tasks.Task(…)"
        )
    return task


def _require_metrics(task: str, place: str, metrics: Any) -> None:
    if metrics is None:
        raise SpecError(f'task = "{task}": {place} has no METRICS; add it')
    if not isinstance(metrics, list | tuple) or not all(isinstance(metric, Metric) for metric in metrics):
        raise SpecError(
            f'task = "{task}": {place} METRICS is no tuple or list of prism.metrics.Metric; write METRICS = (one, two)'
        )


def _guarded(task: Task) -> Task:
    """The task with the hooks that read rows guarded, if it is a file beside the spec."""
    if not is_file(task.name):
        return task
    example, rows = _reading(task.name, "example", task.example), _reading(task.name, "rows", task.rows)
    return replace(task, example=example, rows=rows)


def _reading(task: str, hook: str, read: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that reads rows, for messages: whatever it raises becomes a DataError, named by file and line."""

    @functools.wraps(read)
    def guarded(row: Row, *given: Any) -> Any:
        try:
            return read(row, *given)
        except PrismError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever the file may raise
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if Path(frame.filename).name == Path(task).name]
            place = f"{task} line {lines[-1]}" if lines else task
            remedy = (
                f"name each column that {hook} reads in COLUMNS"
                if isinstance(error, KeyError) and error.args[0] not in row
                else "correct the file, or the row"
            )
            raise DataError(f"{place}: {hook} fails ({_why(error)}); {remedy}") from None

    return guarded


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def is_file(task: str) -> bool:
    """Whether a task is a file beside the spec, not a module of this folder."""
    return task.endswith(".py")


def _module(task: str, folder: Path) -> ModuleType:
    """The module of a task; that of a file is found from `folder`."""
    if is_file(task):
        return _own_module(task, folder / task)
    try:
        return importlib.import_module(f"prism.tasks.{task}")
    except ModuleNotFoundError as error:
        if error.name != f"prism.tasks.{task}":
            raise
        raise _unknown(task) from None


def _own_module(task: str, path: Path) -> ModuleType:
    """The module of a file, executed once for the same bytes.

    Executed from its bytes: Python's cache of compiled files takes an edit within the same second for none, and leaves
    files beside the spec.
    """
    try:
        source = path.read_bytes()
    except OSError:
        raise SpecError(f'task = "{task}": there is no {path}; write the path from the spec\'s own folder') from None
    name = f"prism_task_{hashlib.sha256(str(path.resolve()).encode() + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # a dataclass looks itself up there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102  # the user's own code, named in the spec
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the file may raise
        del sys.modules[name]
        raise SpecError(f'task = "{task}": {path} cannot be imported ({_why(error)}); correct it') from None
    return module


def _source(module: ModuleType) -> str:
    """The digest of a file beside the spec; empty for PRISM's own, whose source every cached table names."""
    path = Path(str(module.__file__))
    return "" if path.parent == Path(__file__).parent else file_digest(path)


def _unknown(task: str) -> SpecError:
    return SpecError(
        f'task = "{task}": no such task; the tasks are {", ".join(known_tasks())}, or write the path of your own from '
        f'the spec\'s folder ("./my_task.py")'
    )


def _required(hook: Any) -> bool:
    return hook.default is MISSING and hook.default_factory is MISSING


def _attribute(hook: str) -> str:
    return hook if hook in FUNCTIONS else hook.upper()


FUNCTIONS = ("example", "parse", "is_judged", "rows", "details", "missing", "failures")


def _hook(module: ModuleType, hook: str) -> Any:
    return getattr(module, _attribute(hook), None)


def known_tasks() -> list[str]:
    """The names of all task modules."""
    names = (found.name for found in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"prism.tasks.{name}") for name in names}
    return [name for name, module in modules.items() if hasattr(module, "example") or hasattr(module, "from_spec")]


def judged_metrics(definitions: Sequence[Definition]) -> list[Metric]:
    """The tier-3 metrics of a judge's definitions, without a scoring function: their scores come from a judge."""
    return [judged(definition.metric, {}) for definition in definitions]


def metrics_of(scores: Scores, root: Path) -> list[Metric]:
    """The metrics in a scores file, as its task defines them. Raises ScoresError if the task is gone."""
    if is_file(scores.task) and posixpath.normpath(scores.task).startswith(("/", "../")):  # no code from anywhere
        raise ScoresError(f'{scores.name}: its task "{scores.task}" lies outside the checkout; restore the file')
    if not is_file(scores.task) and not re.fullmatch(
        r"[a-z][a-z0-9_]*", scores.task
    ):  # from a file, maybe a stranger's
        raise ScoresError(f'{scores.name}: its task "{scores.task}" is no name of a task; restore the file')
    try:
        module = _module(scores.task, root)
    except SpecError as error:
        raise ScoresError(f"{scores.name}: {error}") from None
    if not hasattr(module, "METRICS"):
        raise ScoresError(f'{scores.name}: its task "{scores.task}" has no METRICS; add them')
    known = [*module.METRICS, *judged_metrics(getattr(module, "JUDGED", ()))]
    # What they read besides the answers is part of the evaluation digest, which is compared.
    for metric in (semantic.metric({}, {}), coverage.metric(Path()), *patterns.metrics(Path())):
        if metric.name in scores.measures and metric.name not in {one.name for one in known}:
            known.append(replace(metric, version=scores.measures[metric.name].version))
    found = [metric for metric in known if metric.name in scores.measures]
    # A spec may change the wording of a judge's definition, with or without a new name.
    names = {metric.name for metric in found}
    return found + [
        judged(name, {}) for name, measure in scores.measures.items() if name not in names and measure.judge
    ]
