"""Which measurements of an evaluation the store has seen: a reference that was picked among several is too good.

PRISM_HOME/evaluations/<phase>/<spec>@<8 of the evaluation digest>/ has one small file a measurement, written as it is
made. The same adapters' same scores, measured again, are the same file. Other machines' measurements are in it if the
store is one that they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy
from pydantic import BaseModel, ConfigDict

from prism.errors import StoreError
from prism.store import Store, digest, unwritable, write_text
from prism.verdicts.scores import Scores

FOLDER = "evaluations"


class Look(BaseModel):
    """One measurement. `fresh`: its seeds were drawn by `prism accept --fresh`, so that nobody could pick it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measurement: str
    seeds: list[int]
    adapters: dict[str, str]
    time: str  # of its first appearance here
    fresh: bool = False
    check: str = ""  # of the others, against damage; older ones have none

    @property
    def expected(self) -> str:
        return digest(self.model_dump(exclude={"check"}))[:12]


def now() -> str:
    """The time in UTC; such texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def measurement(scores: Scores) -> str:
    """The digest of what was measured: every seed's score of every sample, whatever a judge says of it besides."""
    own = {name: measure for name, measure in scores.measures.items() if not measure.judge} or scores.measures
    content: dict[int, str] = {}  # metrics of one family share their statistics
    for measure in own.values():
        statistics = measure.statistics
        if id(statistics) not in content:
            unscored = ~numpy.isfinite(statistics).all(-1, keepdims=True)
            values = numpy.where(unscored, numpy.nan, statistics) + 0.0  # no -0.0: a file does not keep it
            content[id(statistics)] = hashlib.sha256(values.tobytes()).hexdigest()
    return digest(
        [scores.ids, {name: [list(measure.seeds), content[id(measure.statistics)]] for name, measure in own.items()}]
    )


def record(scores: Scores, store: Store, fresh: bool = False) -> None:
    """Remember a measurement. If the store cannot be written, say so: its answers are of use all the same."""
    name = measurement(scores)
    path = store.home / FOLDER / scores.name / f"{name[:16]}.json"
    known = _read(path) if path.exists() else None
    replaced = known is not None and fresh > known.fresh
    if known and not replaced and not store.is_unshared(path):
        return
    look = Look(
        measurement=name,
        seeds=[int(seed) for seed in scores.seeds],
        adapters=scores.training.get("adapters", {}),
        time=known.time if known else now(),
        fresh=fresh,
    )
    look = look.model_copy(update={"check": look.expected})
    try:
        if not known or replaced:
            write_text(path, look.model_dump_json(indent=1) + "\n")
        store.share(path, replace=replaced)  # else the time of another machine's stays, which was first
    except (OSError, StoreError) as error:
        why = unwritable(store.home, error) if isinstance(error, OSError) else error
        store.say(f"{why}; until then `prism accept` does not count this measurement")


def require_writable(store: Store) -> None:
    """Raise StoreError if the store cannot remember a measurement."""
    path = store.home / FOLDER / ".writable"
    try:
        write_text(path, "")
        path.unlink()
    except OSError as error:
        raise unwritable(store.home, error) from None


def seen(scores: Scores, store: Store) -> list[Look]:
    """The measurements of one spec and evaluation, oldest first."""
    return sorted(_all(store.gather(f"{FOLDER}/{scores.name}")), key=lambda look: (look.time, look.measurement))


def seeds_seen(scores: Scores, store: Store) -> set[int]:
    """The training seeds that the store has seen of a spec, in any evaluation of it."""
    folders = store.gather(f"{FOLDER}/{scores.phase}").glob(f"{scores.spec}@*")
    return {seed for folder in folders for look in _all(folder) for seed in look.seeds}


def count(scores: Scores, store: Store, since: str) -> int | None:
    """Among how many measurements made after `since` these scores could be picked; None if the store has not seen them.

    Scores of before `since` could be picked among all. Fresh ones could be picked among the fresh ones alone: their
    seeds had not been measured when the recipe was chosen. A measurement of some of the same adapters is a part of this
    one, and no rival.
    """
    looks, own = seen(scores, store), measurement(scores)
    mine = next((look for look in looks if look.measurement == own), None)
    if mine is None:
        return None
    rivals = [look for look in looks if look.fresh >= mine.fresh and not look.adapters.items() < mine.adapters.items()]
    return sum(look.time > since or mine.time <= since for look in rivals)


def place(scores: Scores, accepted: Scores, store: Store, since: str) -> int:
    """Which comparison with the accepted scores this is, from 1, by the measurements made here after `since`."""
    reference, own = measurement(accepted), measurement(scores)
    later = [look.measurement for look in seen(scores, store) if look.time > since and look.measurement != reference]
    return later.index(own) + 1 if own in later else 1


def _all(folder: Path) -> Iterator[Look]:
    return (_read(path) for path in folder.glob("*.json") if not path.name.startswith("."))


def _read(path: Path) -> Look:
    try:
        look = Look.model_validate_json(path.read_bytes())
        if look.check not in ("", look.expected):
            raise ValueError("it has changed since it was written")
        return look
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise StoreError(f"{path}: cannot be read ({why}); delete it, and run that measurement again") from None
