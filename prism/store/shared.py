"""A store in object storage, seen through a local cache: each artifact is one object, fetched when it is asked for.

`<kind>/<digest>.tar` is an artifact, put whole and once: the first writer wins. `<digest>.partial.tar` has the last
checkpoint of one that is being made, `<digest>.lease` says who makes it. What an artifact is called is known, so none is
ever looked for in a listing, which may be late.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prism.errors import StoreError
from prism.store import lease
from prism.store.cache import Cache
from prism.store.files import make_folder, unwritable
from prism.store.manifest import pending, read_manifest, verify
from prism.store.packing import pack, unpack
from prism.store.remote import Remote

ARTIFACT, PARTIAL, LEASE = ".tar", ".partial.tar", ".lease"
PROBE = ".probe-"
# Made in seconds, of the same bytes wherever: two machines may both make one, which costs less than asking each other.
QUICK = ("tables", "figures", "similarities")
AT_ONCE = 16  # requests under way where many artifacts are wanted


class Shared:
    """What a `Store` of a URL does beyond its local folder, the cache."""

    def __init__(self, remote: Remote, cache: Cache, say: Callable[[str], object]) -> None:
        self.remote, self.cache, self.say = remote, cache, say
        self._damaged: set[str] = set()  # objects that may be replaced
        self._conditional: bool | None = None  # whether storage creates an object for one writer only; None: not asked
        self._kept: set[str] = set()  # checkpoints that are in storage

    def bring(self, folder: Path) -> Path | None:
        """Fetch an artifact into the cache; None if storage does not have it. Raises StoreError.

        One that comes damaged twice is not used, with a warning, and is replaced when it is made again.
        """
        with self.cache.scratch() as scratch:
            fetched = self._sound(folder, scratch)
            if fetched is None:
                return None
            place(fetched, folder)
        return self.cache.admit(folder)

    def bring_all(self, folders: Iterable[Path]) -> None:
        """Fetch those artifacts that the cache lacks, several at once. Raises StoreError."""
        lacking = [folder for folder in folders if not folder.exists()]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.bring, lacking))

    def _sound(self, folder: Path, scratch: Path) -> Path | None:
        """What storage has of an artifact, in a folder of `scratch`; None, with a warning, if that is damaged."""
        fetched, reason = self.fetched(folder.parent.name, folder.name, scratch)
        if reason:
            name = _name(folder, ARTIFACT)
            warnings.warn(
                f"{self.remote.url}/{name}: is damaged ({reason}); it is made again and replaced", stacklevel=4
            )
            self._damaged.add(name)
        return fetched

    def fetched(self, kind: str, digest: str, scratch: Path) -> tuple[Path | None, str]:
        """What storage has of an artifact, in a folder of `scratch`, and how it is damaged ("": it is not, or not there).

        What comes damaged is asked for once more. Raises StoreError if storage cannot be read.
        """
        name, reason = f"{kind}/{digest}{ARTIFACT}", ""
        for _ in range(2):
            packed, fetched = scratch / "packed.tar", scratch / "fetched"
            shutil.rmtree(fetched, ignore_errors=True)
            if not self.remote.fetch(name, packed):
                return None, ""
            try:
                unpack(packed, fetched)
                verify(fetched, kind, digest)
                return fetched, ""
            except StoreError as error:
                reason = str(error).replace(f"{fetched}/", "").replace(f"{fetched}: ", "")
        return None, reason

    @contextlib.contextmanager
    def working(self, folder: Path, again: bool) -> Iterator[None]:
        """Be the one machine that makes an artifact, from where another has left it.

        What another finished while this one waited is in the cache then. Raises StoreError, before any work, if storage
        cannot be written.
        """
        self._probe()
        if folder.parent.name in QUICK:
            yield
            return
        with self.alone(folder, f"{folder.parent.name}/{folder.name[:8]}"):
            if again or self.bring(folder) is None:
                self._resume(folder, again)
            yield

    @contextlib.contextmanager
    def alone(self, folder: Path, what: str) -> Iterator[None]:
        """Keep other machines from the same work while the block runs, if storage can. Raises StoreError."""
        self._probe()
        held = lease.held(self.remote, _name(folder, LEASE), what, self.say)
        with held if self._conditional else contextlib.nullcontext():
            yield

    def _probe(self) -> None:
        """Write, read and delete an object: whether storage can be written, keeps it, and creates it only once."""
        if self._conditional is not None:
            return
        name, content = f"{PROBE}{platform.node()}-{os.getpid()}-{os.urandom(4).hex()}", os.urandom(16)
        self.remote.write(name, content)
        self._conditional = not self.remote.write(name, content)
        if self.remote.read(name) != content:
            raise StoreError(f"{self.remote.url}: loses what is written to it; set another --prism-home")
        self.remote.remove(name)
        if not self._conditional:
            self.say(f"{self.remote.url}: creates no object for one writer only, so two machines may make the same")

    def _resume(self, folder: Path, again: bool) -> None:
        """Go on from what another machine has left, if this one has left nothing itself."""
        name, partial = _name(folder, PARTIAL), folder.with_suffix(".partial")
        if again or (partial.is_dir() and any(partial.iterdir())):
            return
        with self.cache.scratch() as scratch:
            if not self.remote.fetch(name, scratch / "packed.tar"):
                return
            self._kept.add(name)
            try:
                unpack(scratch / "packed.tar", scratch / "partial")
            except StoreError as error:
                self.say(f"{name}: its checkpoint cannot be used, so it starts again ({error})")
                return
            place(scratch / "partial", partial)
        self.say(f"{folder.parent.name}/{folder.name[:8]}: goes on from the checkpoint that another machine has left")

    def keep(self, partial: Path) -> None:
        """Put what an unfinished artifact's folder holds into storage, for whichever machine goes on with it.

        If that fails, it is said, and the work goes on.
        """
        name = f"{partial.parent.name}/{partial.stem}{PARTIAL}"
        try:
            with self.cache.scratch() as scratch:
                pack(partial, scratch / "packed.tar")
                self.remote.write(name, scratch / "packed.tar", replace=True)
            self._kept.add(name)
        except StoreError as error:
            self.say(f"{error}; this checkpoint is on this machine only")

    def offer(self, folder: Path, replace: bool = False) -> None:
        """Put an artifact of the cache into storage. Where another machine's was first and differs, take that one.

        Raises StoreError if storage does not take it, or loses it; the next run tries again, and makes nothing anew.
        """
        name = _name(folder, ARTIFACT)
        with self.cache.scratch() as scratch:
            try:
                if not self.put(folder, name, scratch, replace or name in self._damaged):
                    self._take_theirs(folder, scratch)
            except StoreError as error:
                raise StoreError(f"{error}; what was made is kept in {self.cache.home}, for the next run") from error
        self._damaged.discard(name)
        pending(folder).unlink(missing_ok=True)
        if _name(folder, PARTIAL) in self._kept:
            self.remote.remove(_name(folder, PARTIAL))
            self._kept.discard(_name(folder, PARTIAL))
        self.cache.admit(folder)

    def put(self, folder: Path, name: str, scratch: Path, replace: bool = False) -> bool:
        """Write a folder as one object, and look whether it is there; False if another was first. Raises StoreError."""
        packed = scratch / "offered.tar"
        pack(folder, packed)
        if not self.remote.write(name, packed, replace=replace):
            return False
        if self.remote.size(name) != packed.stat().st_size:
            raise StoreError(f"{self.remote.url}/{name}: was written and is not there, so storage loses writes")
        return True

    def _take_theirs(self, folder: Path, scratch: Path) -> None:
        theirs = self._sound(folder, scratch)
        if theirs is None:  # damaged, or deleted since
            self.put(folder, _name(folder, ARTIFACT), scratch, replace=True)
        elif read_manifest(theirs)["files"] != read_manifest(folder)["files"]:
            self.say(
                f"{folder.parent.name}/{folder.name[:8]}: another machine stored it first, of other bytes; its is taken"
            )
            os.replace(folder, scratch / "ours")
            place(theirs, folder)

    # Small files beside the artifacts

    def gather(self, part: str) -> None:
        """Fetch the small files below a folder of the store that the cache lacks. Raises StoreError."""
        for left in (self.cache.home / part).rglob(
            "*.pending"
        ):  # of a process that was killed, or when storage was away
            self.share(left.with_name(left.name.removesuffix(".pending")))
        lacking = []
        for found in self.remote.objects(part):
            file = self.cache.home / found.name
            if not file.exists() or file.stat().st_size != found.size:
                lacking.append(found.name)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.gather_file, lacking))

    def gather_file(self, name: str) -> None:
        """Fetch a small file, if storage has it. Raises StoreError."""
        with self.cache.scratch() as scratch:
            if self.remote.fetch(name, scratch / "file"):
                make_folder((self.cache.home / name).parent)
                os.replace(scratch / "file", self.cache.home / name)

    def share(self, file: Path, replace: bool = False) -> None:
        """Put a small file of the cache into storage. Without `replace`, another machine's of this name is taken."""
        name = file.relative_to(self.cache.home).as_posix()
        pending(file).touch()
        if not self.remote.write(name, file.read_bytes(), replace=replace):
            self.gather_file(name)
        pending(file).unlink(missing_ok=True)


def _name(folder: Path, suffix: str) -> str:
    return f"{folder.parent.name}/{folder.name}{suffix}"


def place(fetched: Path, folder: Path) -> None:
    """Move a finished folder to its place. If another process was faster, its stays.

    What a power cut takes of a cache has not the checksums of its manifest then, and is fetched again.
    """
    try:
        make_folder(folder.parent)
        os.replace(fetched, folder)
    except OSError as error:
        if not folder.exists():
            raise unwritable(folder.parent, error, "--prism-cache") from error
