"""Objects under one URL of fsspec: read, written whole, created once, listed; what goes wrong is one sentence."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from prism.errors import PrismError, StoreError, first_line
from prism.store import listing
from prism.store.files import make_folder, sync, unwritable

LOCKSTEP = ("s3fs", "gcsfs")  # released with fsspec, each version for its own
PAGE = 1_000  # objects that storage lists in one request
TRIES = 3  # of a write that storage refuses because another is under way
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
TAKEN = ("PreconditionFailed", "412")  # codes of S3: the object exists
BUSY = ("ConditionalRequestConflict", "OperationAborted", "409")  # codes of S3: another writes it now
NOT_LET_IN = (
    "Credential",
    "Authentication",
    "Forbidden",
    "Unauthorized",
    "Refresh",
)  # in the names of libraries' errors


@dataclass(frozen=True)
class Object:
    """What storage lists: a name below the URL, bytes, and when it was written (seconds since 1970)."""

    name: str
    size: int
    time: float


class Remote:
    """The objects below one URL. Nothing is asked, and no package of a protocol is imported, before the first call."""

    def __init__(self, url: str) -> None:
        """Raises StoreError for a URL that PRISM cannot use, or whose package is not installed."""
        from fsspec.registry import known_implementations, registry

        protocol, _, place = url.partition("://")
        self.url = f"{protocol}://{place.rstrip('/')}"
        self.requests = 0  # at least: a listing counts its pages, a large object is written in several
        if "::" in url or re.match(r"[^/]*:[^/]*@", place):
            raise StoreError(
                f"--prism-home {protocol}://…: must be one plain URL; chain none, and give passwords and keys to the "
                f"protocol's package, as its own settings"
            )
        if not place.strip("/"):
            raise StoreError(f"--prism-home {self.url}: names no bucket or folder; write {protocol}://NAME/FOLDER")
        known = known_implementations.get(protocol)
        if known is None and protocol not in registry:
            raise StoreError(
                f"--prism-home {self.url}: {protocol} is no protocol of fsspec; name a folder, s3://, gs:// or abfs://"
            )
        package = known["class"].partition(".")[0] if known else "fsspec"
        if importlib.util.find_spec(package) is None:
            import fsspec

            pinned = f"{package}=={fsspec.__version__}" if package in LOCKSTEP else package
            raise StoreError(f"--prism-home {self.url}: {protocol}:// needs {package}; pip install {pinned}")

    @cached_property
    def _files(self) -> Any:
        import fsspec

        protocol = self.url.partition("://")[0]
        with self._asking("opened"):
            options = {"session": _s3_session()} if protocol in ("s3", "s3a") else {}
            return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True, **options)

    @cached_property
    def _root(self) -> str:
        return str(self._files._strip_protocol(self.url)).rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def read(self, name: str) -> bytes | None:
        """The content of a small object, or None if there is none. Raises StoreError."""
        files = self._files
        with self._asking("read", name):
            return bytes(files.cat_file(self._path(name)))
        return None

    def fetch(self, name: str, file: Path) -> bool:
        """Copy an object into a local file; False if there is none. Raises StoreError."""
        files = self._files
        with self._asking("read", name, file):
            files.get_file(self._path(name), str(file))
            return True
        return False

    def write(self, name: str, content: Path | bytes, *, replace: bool = False) -> bool:
        """Write an object whole. Without `replace` the first writer wins, and False says that there is one already.

        Raises StoreError if storage does not take it.
        """
        files = self._files
        for left in reversed(range(TRIES)):
            try:
                with self._asking("written", name, content if isinstance(content, Path) else None):
                    if getattr(files, "local_file", False):
                        _write_here(Path(self._path(name)), content, replace)
                    else:
                        mode = {} if replace else {"mode": "create"}
                        if isinstance(content, Path):
                            files.put_file(str(content), self._path(name), **mode)
                        else:
                            files.pipe_file(self._path(name), content, **mode)
                    return True
                raise self._no_bucket()  # nothing else is missing where something is written
            except FileExistsError:
                return False
            except _Busy:
                if not left:
                    raise StoreError(f"{self.url}/{name}: others write it all the time; run again") from None
                time.sleep(0.2)
        raise AssertionError

    def size(self, name: str) -> int | None:
        """The bytes of an object, or None if there is none. Raises StoreError."""
        files = self._files
        with self._asking("read", name):
            return int(files.info(self._path(name))["size"])
        return None

    def remove(self, name: str) -> None:
        """Delete an object, if it is there. Raises StoreError."""
        files = self._files
        with self._asking("written", name):
            files.rm_file(self._path(name))

    def objects(self, folder: str = "") -> list[Object]:
        """What is stored below a folder, sorted by name, but for names that lead elsewhere as a path.

        Storage may list late what was written now.
        """
        listed = self._listed_fast(folder)
        if listed is None:
            files, found = self._files, {}
            with self._asking("listed", folder):
                found = files.find(self._path(folder), detail=True)
            self.requests += len(found) // PAGE
            start = len(self._root) + 1
            listed = [Object(path[start:], int(info["size"] or 0), _time(info)) for path, info in found.items()]
        plain = (each for each in listed if not {"", ".", ".."} & set(each.name.split("/")))
        return sorted(plain, key=lambda each: each.name)

    def _listed_fast(self, folder: str) -> list[Object] | None:
        """What obstore lists; None where s3fs has to, as it does where something is wrong, which it says."""
        protocol, _, root = self.url.partition("://")
        if not listing.applies(protocol):
            return None
        found = []
        try:
            for page in listing.pages(root, folder, PAGE):
                self.requests += 1
                found += [Object(each["path"], int(each["size"]), each["last_modified"].timestamp()) for each in page]
        except Exception:  # noqa: BLE001  # it has its own types
            return None
        return found

    @contextlib.contextmanager
    def _asking(self, done: str, name: str = "", file: Path | None = None) -> Iterator[None]:
        """Suppress the error of an object that is missing; make any other one sentence. `file` is the local side."""
        self.requests += 1
        try:
            yield
        except (PrismError, FileExistsError):
            raise
        except Exception as error:  # each protocol's package has its own types
            code = _code(error)
            if code in TAKEN and done == "written":
                raise FileExistsError(name) from None
            if code in BUSY:
                raise _Busy from None
            if isinstance(error, FileNotFoundError) and code not in NO_BUCKET:
                return
            if code in NO_BUCKET:
                raise self._no_bucket() from error
            if isinstance(error, OSError) and file and str(error.filename or "").startswith(str(file.parent)):
                raise unwritable(file.parent, error, "--prism-cache") from error
            where = f"{self.url}/{name}" if name else self.url
            kind = type(error).__name__
            if isinstance(error, PermissionError) or any(word in kind for word in NOT_LET_IN):
                remedy = "check the credentials that its package finds, and what they may do"
            else:
                remedy = "check the address and the network, or set another --prism-home"
            raise StoreError(f"{where}: cannot be {done} ({kind}: {first_line(error)}); {remedy}") from error

    def _no_bucket(self) -> StoreError:
        bucket = "://".join(part.partition("/")[0] for part in self.url.split("://", 1))
        return StoreError(f"{self.url}: there is no {bucket}; create it, or set another --prism-home")


def _s3_session() -> Any:
    """As s3fs makes one, but for its parser of times, which takes two thirds of what a listing costs."""
    from aiobotocore.session import AioSession
    from botocore.utils import parse_timestamp

    def parse(text: Any) -> datetime:
        try:
            return datetime.fromisoformat(text)
        except (TypeError, ValueError):
            return parse_timestamp(text)

    session = AioSession()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse)
    return session


class _Busy(Exception):
    """Another writes the same object now."""


def _write_here(path: Path, content: Path | bytes, replace: bool) -> None:
    """Write a file of a shared folder whole: fsspec would write it in place, and ask before whether it exists."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}-{threading.get_ident()}")
    try:
        if isinstance(content, Path):
            shutil.copyfile(content, temporary)
        else:
            temporary.write_bytes(content)
        sync(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def _link(temporary: Path, path: Path) -> None:
    """Give a whole file its name if nobody has it. Raises FileExistsError if somebody has."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if path.exists():  # on a file system without hard links, asked before and not at once
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def _code(error: BaseException | None) -> str:
    """The code that a service gave for an error, whichever exception it became; "" if none is known."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        if code := getattr(error, "error_code", None):
            return str(code)
        error = error.__cause__
    return ""


def _time(info: dict[str, Any]) -> float:
    """When an object was written; each protocol names and types it differently."""
    keys = ("LastModified", "last_modified", "mtime", "updated", "created")
    found = next((info[key] for key in keys if info.get(key)), 0.0)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return found.timestamp() if isinstance(found, datetime) else float(found)


def name_of(url: str) -> str:
    """A folder's name for a URL, to be told from others at a glance."""
    return re.sub(r"[^\w.-]+", "-", str(PurePosixPath(url.replace("://", "-"))))[:80]
