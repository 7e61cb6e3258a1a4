"""The base model of a spec, loaded only when something has to be computed, and freed when it is not needed."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism.models import cost, window
from prism.models.cost import IMPORTS, Clock
from prism.models.identity import template_file
from prism.models.window import Fitting
from prism.progress import Progress
from prism.rows import Example
from prism.spec import Spec
from prism.store import file_digest
from prism.store.sources import base_identity, model_source

if TYPE_CHECKING:
    from prism.models.load import Base

# What to lower if a stage fills the GPU: answers take what is left beside the model.
LENGTH = "what the model takes ([model].load_in_4bit = true), or [model].max_seq_length if contexts are cut to it"
BATCH = "[sft].per_device_train_batch_size, or set gradient_checkpointing = true"


_left: list[Base] = []  # at most one: the base of an experiment that has ended, for the next with the same


def forget() -> None:
    """Free the memory of a base that an experiment has left loaded."""
    if _left:
        _left.clear()
        gc.collect()


@contextmanager
def _importing() -> Iterator[None]:
    """Collect no garbage while the libraries are imported, and never look through what they made.

    Their hundred thousands of objects stay as long as the process. To look through them again and again takes a sixth of the
    time of their import, and a quarter of a second whenever a model is freed.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


class LazyBase:
    """One base model. `home` is the store's folder, which the trainer's options are checked with.

    `models` is --prism-models: a folder whose subfolders replace hub models of that name.
    """

    def __init__(
        self,
        spec: Spec,
        root: Path,
        home: Path,
        screen: Progress,
        models: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.spec, self.root, self.home, self.screen, self.clock = spec, root, home, screen, clock or Clock(spec.id)
        self.source = model_source(spec.model.model_name, root, models)
        self._loaded: Base | None = None
        self._fitting: Fitting | None = None

    @cached_property
    def identity(self) -> dict[str, str]:
        found = base_identity(self.source, self.root, revision=self.revision, say=self.screen.say)
        template = template_file(self.spec, self.root)  # with which the base is asked, too
        return found | ({"template": file_digest(template)} if template else {})

    @property
    def revision(self) -> str | None:
        """[model].revision, unless a folder of --prism-models stands in for the hub."""
        return self.spec.model.revision if self.source == self.spec.model.model_name else None

    @property
    def digest(self) -> str:
        """The digest of a local folder's files, or the revision of a hub model."""
        return self.identity.get("bytes") or self.identity["revision"]

    def load(self) -> Base:
        """The loaded model; the same object until `free`."""
        if self._loaded is None or self._loaded.model is None:  # given up for a training that divides it
            with self.clock(IMPORTS), _importing():
                from prism.models import generate, load

                if not self.spec.adapter:  # with TRL, which nothing else needs
                    from prism.models import launch, train

            stage = f"{self.spec.id}: loading {self.spec.model.model_name}"
            with self.clock("loading the base"), cost.stage(stage, LENGTH), self.screen.progress(stage):
                generate.check(self.spec)
                if not self.spec.adapter:
                    train.check(self.spec, self.home)
                    launch.check(self.spec)
                if _left and not _left[0].serves(self.spec, self.source):
                    forget()
                model = _left.pop().model if _left else None
                self._loaded = load.load(self.spec, self.root, self.screen.say, self.source, model)
        return self._loaded

    def fitting(self, training: Sequence[Example], held_out: Sequence[Example]) -> Fitting:
        """Which training rows the model can learn from; said on the screen once, before anything is measured."""
        if self._fitting is None:
            base = self.load()
            with self.clock("rows in the window"):
                self._fitting = window.fitting(base, training, held_out)
            if self._fitting.sentence:
                self.screen.say(f"{self.spec.id}: {self._fitting.sentence}")
        return self._fitting

    def take_off(self, adapted: Any) -> None:
        """Take an adapter off after its answers; free a base whose weights it may have changed."""
        if self._loaded is not None and self._loaded.unloads_cleanly:
            self._loaded.model = adapted.unload()
        else:
            self.free()

    def leave(self) -> None:
        """Free the memory of the model, but for one that the next experiment may go on with."""
        if self._loaded is not None and self._loaded.unloads_cleanly:
            forget()
            _left.append(self._loaded)
        self.free()

    def free(self, kept: bool = False) -> None:
        """Free the memory of the model, or if it is `kept`, of what trained on it."""
        if self._loaded is not None:
            self._loaded = self._loaded if kept else None
            gc.collect()
