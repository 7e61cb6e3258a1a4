"""The lock of machines that share a store: an object that its holder created, and writes again while it works.

It needs no clock that two machines share: a lease is dead if its content stays the same for `DEAD` seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from prism.errors import StoreError
from prism.store.files import read_json
from prism.store.remote import Remote

RENEWED = 20.0  # seconds from renewal to renewal
DEAD = 90.0  # seconds without one, after which the work is taken over
ASKED = 3.0  # seconds from question to question, of those that wait


@contextlib.contextmanager
def held(remote: Remote, name: str, what: str, say: Callable[[str], object]) -> Iterator[bool]:
    """Hold the lease `name` in storage while the block runs; yields whether it was waited for."""
    own = {"host": platform.node(), "process": os.getpid(), "id": uuid.uuid4().hex}
    waited = False
    seen, since, said = b"", time.monotonic(), ""
    while not remote.write(name, _content(own)):
        waited = True
        found = remote.read(name)
        if found is None:
            continue  # released now
        holder = _holder(found)
        if found != seen:
            seen, since = found, time.monotonic()
        if said != holder["id"]:
            said = holder["id"]
            say(f"waiting for {what}, which {holder['host']} makes (process {holder['process']})")
        if _is_gone(holder) or time.monotonic() - since > DEAD:
            say(f"{what}: {holder['host']} (process {holder['process']}) has ended without it; taken over")
            remote.write(name, _content(own), replace=True)
            time.sleep(min(1.0, ASKED))  # two that take over at once: the one that wrote last has it
            if _holder(remote.read(name) or b"")["id"] == own["id"]:
                break
            continue
        time.sleep(ASKED)
    stop = threading.Event()
    renewal = threading.Thread(target=_renew, args=(remote, name, own, stop), daemon=True)
    renewal.start()
    try:
        yield waited
    finally:
        stop.set()
        renewal.join()
        with contextlib.suppress(StoreError):  # it is dead soon
            if _holder(remote.read(name) or b"")["id"] == own["id"]:
                remote.remove(name)


def _renew(remote: Remote, name: str, own: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(RENEWED):
        with contextlib.suppress(StoreError):  # an outage: the next one may come through
            if _holder(remote.read(name) or b"")["id"] != own["id"]:
                return  # taken over: this machine was away for long
            remote.write(name, _content(own), replace=True)


def _content(own: dict[str, Any]) -> bytes:
    return json.dumps({**own, "renewed": time.time()}).encode()


def _holder(content: bytes) -> dict[str, Any]:
    """Who holds a lease; nobody known if its content is damaged."""
    try:
        found = read_json(content.decode())
        return {"host": str(found["host"]), "process": int(found["process"]), "id": str(found["id"])}
    except (ValueError, KeyError, TypeError):
        return {"host": "another machine", "process": 0, "id": ""}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder is a process of this machine that has ended."""
    return holder["host"] == platform.node() and not psutil.pid_exists(holder["process"])
