"""Opens the store that `--prism-home` or PRISM_HOME names: a folder, or a URL of fsspec with a cache before it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

from prism.errors import StoreError
from prism.progress import CONSOLE
from prism.store import Store, digest
from prism.store.cache import Cache
from prism.store.remote import Remote, name_of
from prism.store.shared import Shared

DEFAULT = "~/.cache/prism"
GIB = 50.0  # of a cache


def open_store(
    home: str | None, say: Callable[[str], object] = CONSOLE.say, cache: str | None = None, gib: str | None = None
) -> Store:
    """The store of a folder or URL, by default PRISM_HOME's, else ~/.cache/prism.

    `cache` (PRISM_CACHE, by default a folder of ~/.cache/prism/shared) holds at most `gib` GiB (PRISM_CACHE_GIB, by
    default 50). Raises StoreError for a URL or size that cannot be used; nothing is asked of storage yet.
    """
    named = home or os.environ.get("PRISM_HOME") or DEFAULT
    if "://" not in named:
        return Store(Path(named).expanduser().resolve(), say)
    remote = Remote(named)
    chosen = cache or os.environ.get("PRISM_CACHE")
    folder = Path(chosen or f"{DEFAULT}/shared").expanduser().resolve()
    # A folder for each URL, also in a cache that is named: two stores may hold a digest each, of different bytes.
    folder /= f"{name_of(remote.url)}-{digest(remote.url)[:8]}"
    limit = gib or os.environ.get("PRISM_CACHE_GIB") or str(GIB)
    return Store(folder, say, Shared(remote, Cache(folder, _gib(limit)), say))


def _gib(text: str) -> float:
    try:
        if 0 < (size := float(text)) < math.inf:
            return size
    except ValueError:
        pass
    raise StoreError(f"--prism-cache-gib {text}: must be a number of GiB above 0")
