"""What runs on a node: one task of `plan`, by the same stages of `Experiment` that a local run calls."""

from __future__ import annotations

import os
import platform
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prism.cluster import carrying
from prism.cluster.plan import Task, make
from prism.devices import use_one_gpu
from prism.errors import PrismError
from prism.experiment import Experiment
from prism.progress import Advance
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
class Done:
    """What became of a task. Exactly one of `made` and `error` is there."""

    host: str
    made: tuple[str, ...] = ()  # artifacts, kind/digest, that the task needed, and of these
    new: tuple[str, ...] = ()  # those that it made
    carried: Mapping[str, bytes] = field(default_factory=dict)
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
        self.board.say.remote(self.task, sentence)

    @contextmanager
    def progress(self, what: str, total: int = 0) -> Iterator[Advance]:
        start = told = time.monotonic()
        count, latest = 0, ""

        def advance(steps: int, live: str = "", /) -> None:
            nonlocal told, count, latest
            count, latest = count + steps, live or latest
            if time.monotonic() - told >= OFTEN:
                told = time.monotonic()
                self.board.show.remote(self.task, self.host, what, count, total, latest)

        self.board.show.remote(self.task, self.host, what, 0, total, "")
        yield advance
        self.say(f"{what}: {time.monotonic() - start:.1f} s ({self.host})")


def work(order: Order, board: Any) -> Done:
    """Do a task. What fails is returned as a sentence, so that no exception of a library has to travel."""
    task, host = order.task, platform.node()
    screen = Telling(board, task.name)
    board.begin.remote(task.name, host)
    root = Path(order.root or os.getcwd())
    if "," in os.environ.get("CUDA_VISIBLE_DEVICES", ""):  # several, for [launch] processes
        use_one_gpu()
    try:
        store = open_store(order.home or None, screen.say)
        if not order.home:
            _receive(order, store)
        setting = Setting(root, store, screen, order.data, order.models, retrain=order.retrain)
        experiment = Experiment(_placed(order, root), setting, [task.seed if task.seed is not None else task.spec.seed])
        with _heard(screen):
            folders = make(experiment, task.seed)
        experiment.base.free()
    except PrismError as error:
        return Done(host, error=str(error))
    except Exception as error:  # noqa: BLE001  # said on the items of the spec, with its traceback
        return Done(host, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    finally:
        _end(board, task.name)
    carried = {} if order.home else {_name(folder): carrying.pack(folder) for folder in folders}
    return Done(host, tuple(map(_name, folders)), tuple(map(_name, setting.made)), carried)


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
