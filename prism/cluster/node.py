"""What runs on a node: one task of `plan`, by the same stages of `Experiment` that a local run calls, or a judge's."""

from __future__ import annotations

import os
import platform
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prism.cluster import carrying
from prism.cluster.plan import Task, make
from prism.devices import use_one_gpu
from prism.errors import PrismError
from prism.experiment import Experiment
from prism.judge import Case, Definition, Grade, ledger, tier3
from prism.judge.choosing import Choice
from prism.judge.grading import judgement_identity
from prism.judge.spending import Spending, Tokens
from prism.progress import Advance
from prism.redaction import keep, redact_logs, redacted
from prism.setting import Setting
from prism.store import Store
from prism.store.homes import open_store

OFTEN = 0.5  # seconds between two messages of a stage


@dataclass(frozen=True)
class Order:
    """A task and where it runs: the checkout, the store and the folders as the nodes see them."""

    task: Task
    root: str  # "": the node's own copy of the checkout
    origin: str  # the checkout where the tests run, which the spec's own folder lies in
    home: str  # a folder or a URL; "": the node's own store, from which artifacts travel
    data: Path | None
    models: Path | None
    retrain: bool
    found: Mapping[str, Any] = field(default_factory=dict)  # by artifact the reference of its bytes, if they travel


@dataclass(frozen=True)
class Asked:
    """What a judge is asked, and where its judgements are kept. Its key is no part of this, see `judge`."""

    task: Task
    choice: Choice
    definitions: Sequence[Definition]
    spending: Spending  # of the run so far, with its budget
    home: str  # as an order's
    known: Sequence[bytes] = ()  # by definition the judgements so far, if they travel


@dataclass(frozen=True)
class Done:
    """What became of a task. Exactly one of `made`, `grades` and `error` is there."""

    host: str
    made: tuple[str, ...] = ()  # artifacts, kind/digest, that the task needed, and of these
    new: tuple[str, ...] = ()  # those that it made
    carried: Mapping[str, bytes] = field(default_factory=dict)
    grades: Mapping[Definition, list[Grade]] = field(default_factory=dict)
    judged: tuple[bytes, ...] = ()  # as an `Asked`'s `known`, and those of now
    spent: Tokens = field(default_factory=Tokens)  # by a judge
    retries: int = 0
    error: str = ""  # a sentence
    trace: str = ""  # of an error that is none of PRISM's


class Board:
    """An actor beside the tests' process: takes what tasks tell, until it is fetched."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.stages: dict[str, tuple[str, str, int, int, str]] = {}
        self.begun: set[str] = set()

    def begin(self, task: str, host: str) -> None:
        if task in self.begun:
            self.lines.append((task, f"{task}: tried again, because its node or process was lost ({host})"))
        self.begun.add(task)

    def say(self, task: str, sentence: str) -> None:
        self.lines.append((task, sentence))

    def show(self, task: str, host: str, what: str, done: int, total: int, live: str) -> None:
        self.stages[task] = (host, what, done, total, live)

    def fetch(self) -> tuple[list[tuple[str, str]], dict[str, tuple[str, str, int, int, str]]]:
        """New lines, and the latest of each running task."""
        lines, self.lines = self.lines, []
        return lines, dict(self.stages)

    def end(self, task: str) -> None:
        self.stages.pop(task, None)


class Telling:
    """`prism.progress.Progress` of a task: tells the board, at most twice a second, and waits for no reply."""

    def __init__(self, board: Any, task: str) -> None:
        self.board, self.task, self.host = board, task, platform.node()

    def say(self, sentence: str) -> None:
        self.board.say.remote(self.task, redacted(sentence))

    @contextmanager
    def progress(self, what: str, total: int = 0) -> Iterator[Advance]:
        start = told = time.monotonic()
        count, latest = 0, ""

        def advance(steps: int, live: str = "", /) -> None:
            nonlocal told, count, latest
            count, latest = count + steps, live or latest
            if time.monotonic() - told >= OFTEN:
                told = time.monotonic()
                self.board.show.remote(self.task, self.host, what, count, total, redacted(latest))

        self.board.show.remote(self.task, self.host, what, 0, total, "")
        yield advance
        self.say(f"{what}: {time.monotonic() - start:.1f} s ({self.host})")


def work(order: Order, board: Any) -> Done:
    """Make a task's adapter and answers."""

    def made(screen: Telling) -> Done:
        root = Path(order.root or os.getcwd())
        several = "," in os.environ.get("CUDA_VISIBLE_DEVICES", "")  # for [launch] processes
        if several and not order.task.spec.sharded:
            use_one_gpu()
        store = open_store(order.home or None, screen.say)
        if not order.home:
            _receive(order, store)
        setting = Setting(root, store, screen, order.data, order.models, retrain=order.retrain)
        seed = order.task.seed
        experiment = Experiment(_placed(order, root), setting, [seed if seed is not None else order.task.spec.seed])
        folders = make(experiment, seed)
        experiment.base.free()
        carried = {} if order.home else {_name(folder): carrying.pack(folder) for folder in folders}
        return Done(screen.host, tuple(map(_name, folders)), tuple(map(_name, setting.made)), carried)

    return _done(order.task, board, made)


def judge(asked: Asked, cases: Sequence[Case], board: Any, key: str) -> Done:
    """Grade a spec's answers. The judge's key stays in memory: Ray sends a short argument from process to process.

    It is in no environment variable and no object of Ray's, which its dashboard lists and its nodes spill to disks.
    """
    keep(key)

    def graded(screen: Telling) -> Done:
        store, choice, spending = open_store(asked.home or None, screen.say), asked.choice, asked.spending
        before, retries = spending.spent, spending.retries
        identities = [judgement_identity(choice, definition) for definition in asked.definitions]
        for identity, lines in zip(identities, asked.known):
            ledger.receive(store, identity, lines)
        using = replace(choice, key=key), spending
        grades = tier3.grade_all(asked.definitions, cases, using, store, screen, asked.task.spec.id)
        judged = () if asked.home else tuple(ledger.lines(store, identity) for identity in identities)
        spent = spending.spent - before
        return Done(screen.host, grades=grades, judged=judged, spent=spent, retries=spending.retries - retries)

    return _done(asked.task, board, graded)


def _done(task: Task, board: Any, do: Callable[[Telling], Done]) -> Done:
    """What `do` returns. What fails is returned as a sentence, so that no exception of a library has to travel."""
    screen = Telling(board, task.name)
    redact_logs()
    board.begin.remote(task.name, screen.host)
    try:
        with _heard(screen):
            return do(screen)
    except PrismError as error:
        return Done(screen.host, error=redacted(str(error)))
    except Exception as error:  # noqa: BLE001  # said on the items of the spec, with its traceback
        trace = redacted(traceback.format_exc())
        return Done(screen.host, error=redacted(f"{type(error).__name__}: {error}"), trace=trace)
    finally:
        _end(board, task.name)


@contextmanager
def _heard(screen: Telling) -> Iterator[None]:
    """Tell PRISM's warnings, which pytest lists where the tests run."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            own = [each for each in caught if "prism" in Path(each.filename).parts]
            for sentence in dict.fromkeys(str(each.message) for each in own):
                screen.say(sentence)


def _end(board: Any, name: str) -> None:
    """Take the task off the board, once all that it told is there."""
    import ray

    with suppress(ray.exceptions.RayError):
        ray.get(board.end.remote(name))


def _receive(order: Order, store: Store) -> None:
    """Store what the task needs and this node lacks."""
    import ray

    for artifact, reference in order.found.items():
        if not (store.home / artifact).is_dir():
            carrying.unpack(artifact, ray.get(reference), store)


def _placed(order: Order, root: Path) -> Any:
    """The spec, with its folder where this node has the checkout."""
    spec, origin = order.task.spec, Path(order.origin)
    if root == origin or not spec.folder.is_relative_to(origin):
        return spec
    return spec.model_copy(update={"folder": root / spec.folder.relative_to(origin)})


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
