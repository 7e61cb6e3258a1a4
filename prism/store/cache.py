"""The local folder through which a store in object storage is read, and what is deleted of it when it is full.

What was not used for longest goes first. What a living process may be using stays: all that was used since the oldest
of them began.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import psutil

from prism.store.files import make_folder, unwritable
from prism.store.manifest import pending

WORK = ".work"  # a folder for each living process, with what it has not finished
DIGEST = re.compile(r"[0-9a-f]{64}")
FOREIGN_DAYS = 7  # after which a process of another machine is taken for ended


class Cache:
    """At most `limit` GiB of artifacts below `home`, if what is in use needs no more."""

    def __init__(self, home: Path, limit: float) -> None:
        self.home, self.limit = home, limit * 2**30
        self._held: int | None = None  # bytes of all artifacts; counted when the first one is added

    @cached_property
    def work(self) -> Path:
        """This process's own folder. Removes those of processes that ended."""
        living = _name(os.getpid())
        with self._told():
            make_folder(self.home / WORK)
            for other in (self.home / WORK).iterdir():
                if not _lives(other):
                    shutil.rmtree(other, ignore_errors=True)
            folder = self.home / WORK / living
            folder.mkdir(exist_ok=True)
            if not (folder / "began").exists():  # by another store of this process
                (folder / "began").touch()
        return folder

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the file system of the cache that is deleted afterwards."""
        with self._told(), tempfile.TemporaryDirectory(dir=self.work) as folder:
            yield Path(folder)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self.home, error, "--prism-cache") from error

    def use(self, folder: Path) -> Path:
        """Note that an artifact is used now."""
        _ = self.work  # from now on this process lives
        with contextlib.suppress(OSError):  # another user's, who may have a cache of his own
            os.utime(folder)
        return folder

    def admit(self, folder: Path) -> Path:
        """Note a new artifact, and make room for it."""
        self.use(folder)
        if self._held is None:
            self._held = sum(_size(each) for each in self._artifacts())
        else:
            self._held += _size(folder)
        if self._held > self.limit:
            self._make_room()
        return folder

    def _artifacts(self) -> list[Path]:
        return [each for each in self.home.glob("*/*") if DIGEST.fullmatch(each.name)]

    def _make_room(self) -> None:
        began = min((each.stat().st_mtime for each in (self.home / WORK).glob("*/began")), default=0.0)
        aged = sorted((folder.stat().st_mtime, folder) for folder in self._artifacts())
        self._held = sum(_size(folder) for _, folder in aged)
        for used, folder in aged:
            if self._held <= self.limit or used >= began:
                return
            if pending(folder).exists():
                continue
            self._held -= _size(folder)
            gone = self.work / f"gone-{folder.name}"
            with contextlib.suppress(OSError):  # another process makes room, too
                os.replace(folder, gone)  # not deleted in place, where another process would find half of it
            shutil.rmtree(gone, ignore_errors=True)


def _name(process: int) -> str:
    return f"{platform.node().partition('.')[0]}-{process}"


def _lives(work: Path) -> bool:
    """Whether the process of a folder of work may still run; one of another machine counts for some days."""
    try:
        began = (work / "began").stat().st_mtime
    except OSError:
        return False
    process = work.name.rpartition("-")[2]
    if not process.isdecimal() or work.name != _name(int(process)):
        return time.time() - began < FOREIGN_DAYS * 86_400
    try:
        return psutil.Process(int(process)).create_time() <= began + 1
    except psutil.Error:
        return False


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError:
        return 0
