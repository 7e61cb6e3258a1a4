"""Answers and label likelihoods as the store keeps them: found there, or made by the base or an adapter on it.

The base's answers and likelihoods go on from one reading of the questions, if both are missing. This module imports no
model library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prism.models.identity import predictions_identity
from prism.models.lazy import LENGTH, LazyBase
from prism.rows import Example
from prism.store import digest, read_manifest

if TYPE_CHECKING:
    from prism.models.generate import Heard

KIND = "predictions"
LABELS = "label likelihoods"  # the stage


class Make(Protocol):
    """Finds an artifact in the store, or has it made: `prism.setting.Setting.make`."""

    def __call__(self, kind: str, identity: Mapping[str, Any], work: Callable[[Path], dict], /) -> Path: ...


def baseline(
    lazy: LazyBase, make: Make, asked: Sequence[Example], labels: Sequence[str], what: str, ready: Callable[[], object]
) -> Path:
    """The folder of the base's answers. Making them also makes the likelihoods of `labels`, if there are any.

    `ready` is called once the base is loaded, before it is asked; `what` names the stage.
    """

    def work(folder: Path) -> dict[str, Any]:
        part = f"answers, {what}"
        progress = lazy.screen.progress(f"{lazy.spec.id}: {part}", len(asked))
        with lazy.clock.stage(part, LENGTH) as notes, progress as advance:
            base = lazy.load()
            ready()
            from prism.models import generate

            def ask(score: Heard | None = None) -> Mapping[str, Any]:
                def timed(*batch: Any) -> None:
                    assert score
                    with lazy.clock(LABELS):
                        score(*batch)

                heard = timed if score else None
                with lazy.clock(part):
                    notes.update(generate.answers(base, base.model, asked, folder, advance, merge=False, heard=heard))
                return notes

            if labels:
                likelihoods(lazy, make, asked, labels, ask)
            if "tokens" not in notes:  # the likelihoods were there
                ask()
        return notes

    identity = predictions_identity(lazy.spec, lazy.identity, None, asked, "answers")
    return make(KIND, identity | {"merged": False}, work)


def likelihoods(
    lazy: LazyBase,
    make: Make,
    asked: Sequence[Example],
    labels: Sequence[str],
    ask: Callable[[Heard | None], Mapping[str, Any]] | None = None,
) -> Path:
    """The folder of the base's likelihood of each label; `ask` as `prism.models.likelihoods.likelihoods` takes it."""

    def work(folder: Path) -> dict[str, Any]:
        alone = lazy.screen.progress(f"{lazy.spec.id}: {LABELS}", len(asked))
        with lazy.clock.stage(LABELS, LENGTH) as notes, nullcontext(lambda _: None) if ask else alone as advance:
            base = lazy.load()
            from prism.models import likelihoods

            notes |= likelihoods.likelihoods(base, base.model, asked, labels, folder, advance, ask)
        return notes

    identity = predictions_identity(lazy.spec, lazy.identity, None, asked, "likelihoods")
    return make(KIND, identity | {"labels": labels}, work)


def tuned(lazy: LazyBase, make: Make, asked: Sequence[Example], adapter: Path, what: str) -> Path:
    """The folder of the answers by an adapter, merged where its parity holds."""
    manifest = read_manifest(adapter)
    merge = manifest["notes"]["parity"]["holds"]["merge"] is True

    def work(folder: Path) -> dict[str, Any]:
        part = f"answers, {what}"
        progress = lazy.screen.progress(f"{lazy.spec.id}: {part}", len(asked))
        with lazy.clock.stage(part, LENGTH) as notes, progress as advance:
            base = lazy.load()
            from prism.models import adapters, generate

            model = adapters.load_adapter(base, adapter)
            if merge and not lazy.spec.model.quantized:
                model = model.merge_and_unload()
            notes |= generate.answers(adapters.asked_with(base, adapter), model, asked, folder, advance, merge)
            lazy.take_off(model)
        return notes

    # By its files, not by its recipe: trained again on a GPU, the same recipe gives another adapter.
    identity = predictions_identity(lazy.spec, lazy.identity, digest(manifest["files"]), asked, "answers")
    return make(KIND, identity | {"merged": merge}, work)
