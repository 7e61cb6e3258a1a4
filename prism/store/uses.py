"""What an experiment used, noted beside the artifacts: another machine fetches it at once, where storage is far away.

One after the other, thirty artifacts take thirty times as long as one request. A note that is out of date costs a request for
each artifact that is used no more.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prism.errors import StoreError
from prism.store import Store
from prism.store.files import digest, make_folder, read_json, write_text

FOLDER = "uses"
NAME = re.compile(r"[a-z]+/[0-9a-f]{64}")  # <kind>/<digest>, and nothing that leads elsewhere as a path


def fetch(store: Store, experiment: Mapping[str, Any]) -> None:
    """Have here what this experiment used last, as far as storage has it. Raises StoreError if it cannot be read."""
    store.used.clear()
    if store.shared is None:
        return
    file = _file(store, experiment)
    if not file.exists():  # else most of it is here
        store.gather_file(file)
    store.bring(_names(file))


def note(store: Store, experiment: Mapping[str, Any]) -> None:
    """Note what was used since `fetch`, if it differs; where that cannot be written, the next machine waits longer."""
    file, used = _file(store, experiment), sorted(store.used)
    if used == _names(file):
        return
    with contextlib.suppress(OSError, StoreError):
        make_folder(file.parent)
        write_text(file, json.dumps(used))
        store.share(file, replace=True)


def _file(store: Store, experiment: Mapping[str, Any]) -> Path:
    return store.home / FOLDER / f"{digest(experiment)}.json"


def _names(file: Path) -> list[str]:
    """The artifacts of a note; none if there is no note, or a damaged one."""
    with contextlib.suppress(OSError, ValueError):
        found = read_json(file.read_text(encoding="utf-8"))
        if isinstance(found, list):
            return [name for name in found if isinstance(name, str) and NAME.fullmatch(name)]
    return []
