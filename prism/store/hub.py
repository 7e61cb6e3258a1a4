"""The hub: one commit a run of each model and data set, and a model's files in the client's own cache.

A name is resolved once a process, so that a hub that moves meanwhile cannot mix two commits in one run. Where the hub
refuses, fails or is not there, what the local cache has is used, and the record says so. This module imports no model
library, so that a fully cached run starts fast.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from prism.errors import DataError, ModelError, PrismError, first_line

Kind = Literal["model", "dataset"]
Say = Callable[[str], None]
Asked = tuple[Kind, str, str]  # kind, "owner/name", branch, tag or commit
T = TypeVar("T")

PROBES = {"model": "config.json", "dataset": "README.md"}  # whoever may read a repository may read this file of it
# What transformers and sentence-transformers read of a model: neither pickles, nor weights in other formats, nor a
# second copy of them ("consolidated", "original/").
FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.safetensors"]
OTHERS = ["consolidated*", "original/*", "onnx/*", "openvino/*", "*.fp16.*", "checkpoint-*/*"]
PAUSES = (1.0, 2.0, 4.0)  # seconds before each further attempt
LONGEST_PAUSE = 60.0  # seconds, whatever the hub asks for


@dataclass(frozen=True)
class Commit:
    """A commit of a hub repository. `cached` is why the local cache was asked for it, empty if the hub named it."""

    sha: str
    cached: str = ""


COMMITS: dict[Asked, Commit] = {}  # of this process
FOLDERS: dict[Asked, Path] = {}  # of models that are whole in the local cache


def commit(kind: Kind, name: str, revision: str | None, key: str, say: Say) -> Commit:
    """The commit that this run uses: the hub's at first asking, or the local cache's if the hub does not give it.

    `revision` is a branch, a tag or a commit, by default main; `key` is where the spec names it. Raises ModelError or
    DataError if neither the hub nor the cache has it.
    """
    asked: Asked = (kind, name, revision or "main")
    if asked not in COMMITS:
        COMMITS[asked] = _resolve(asked, key, say)
    return COMMITS[asked]


def _resolve(asked: Asked, key: str, say: Say) -> Commit:
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RemoteEntryNotFoundError

    kind, name, revision = asked
    try:
        sha = revision
        if not is_commit(revision):
            info = patiently(name, lambda: HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=10), say)
            sha = str(info.sha)
        # Anybody is told the commit of a gated repository; whether its files may be read shows here.
        with contextlib.suppress(RemoteEntryNotFoundError):  # a data set without a card
            patiently(name, lambda: hf_hub_download(name, PROBES[kind], repo_type=kind, revision=sha), say)
        return Commit(sha)
    except (httpx.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = reason_of(error)
        if cached := _cached(asked):
            say(f"{name}: the hub does not give it ({reason}); revision {cached[:8]} of the local cache is used")
            return Commit(cached, reason)
        raise _refusal(asked, key, error, reason) from None


def is_commit(revision: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def patiently(name: str, ask: Callable[[], T], say: Say) -> T:
    """What `ask` returns; asked again, after a pause, if the hub answers 429 or 5xx. Raises its last error."""
    for pause in PAUSES:
        try:
            return ask()
        except Exception as error:  # the hub's answer is the cause of any of several types
            response = _response(error)
            if response is None or (response.status_code != 429 and response.status_code < 500):
                raise
            seconds = max(pause, _retry_after(response))
            say(f"{name}: the hub answers {response.status_code}; it is asked again in {seconds:g} s")
            time.sleep(seconds)
    return ask()


def _retry_after(response: Any) -> float:
    """Seconds that the hub asks to wait; 0 if it names none, or a date."""
    try:
        seconds = float(response.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0
    return min(LONGEST_PAUSE, seconds) if math.isfinite(seconds) else 0.0


def _response(error: BaseException | None) -> Any:
    """The hub's answer behind an error, since the client raises some of its errors as the cause of others."""
    while error is not None:
        if (response := getattr(error, "response", None)) is not None:
            return response
        error = error.__cause__
    return None


def reason_of(error: Exception) -> str:
    """Why a request failed: the hub's status, or the first line of the error behind it."""
    response = _response(error)
    if response is not None:
        return f"{response.status_code} {response.reason_phrase}".strip()
    first = error.__cause__ or error
    return first_line(first)


def _repository(kind: Kind, name: str) -> Path:
    """The repository's folder in the client's cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)


def _cached(asked: Asked) -> str:
    """The commit that the cache has of a branch or tag, or the commit itself; empty if it has none."""
    kind, name, revision = asked
    if is_commit(revision):  # rows have a cache of their own, which is read later
        return revision if kind == "dataset" or (_repository(kind, name) / "snapshots" / revision).is_dir() else ""
    try:
        sha = (_repository(kind, name) / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
    return sha if is_commit(sha) else ""


def remember(kind: Kind, name: str, revision: str | None) -> None:
    """Write into the client's cache which commit the branch or tag was, so that it is found there without a hub.

    The client does so itself where it is asked for a branch; PRISM asks it for a commit.
    """
    revision = revision or "main"
    found = COMMITS[kind, name, revision]
    if found.cached or is_commit(revision):
        return
    file = _repository(kind, name) / "refs" / revision
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found.sha, encoding="utf-8")
    except OSError:  # a cache that others fill
        return


def model_folder(name: str, revision: str | None, key: str, say: Say) -> Path:
    """The folder of a hub model's files at this run's commit; what the local cache lacks is downloaded.

    Everything is loaded from there, so that no library asks the hub for another revision. Raises ModelError if the hub
    does not give the files and the cache lacks some.
    """
    from huggingface_hub import HfApi, snapshot_download

    asked: Asked = ("model", name, revision or "main")
    if asked in FOLDERS:
        return FOLDERS[asked]
    found = commit("model", name, revision, key, say)
    folder, problem = _repository("model", name) / "snapshots" / found.sha, found.cached
    if not problem:
        if lacking(folder):
            say(f"{name}: downloading revision {found.sha[:8]} from the hub")
        try:  # first whether the hub is there: snapshot_download takes half a download for whole if it is not
            patiently(name, lambda: HfApi().model_info(name, revision=found.sha, timeout=10), say)
            wanted = partial(snapshot_download, name, revision=found.sha, allow_patterns=FILES, ignore_patterns=OTHERS)
            patiently(name, wanted, say)
        except Exception as error:  # noqa: BLE001  # a download is cut by any of a dozen types of three libraries
            problem = reason_of(error)
    if missing := lacking(folder):
        if problem:
            raise ModelError(
                f"{name}: the local cache lacks {missing} of revision {found.sha[:8]}, and the hub does not give it "
                f"({problem}); try again later, or put the model into a local folder and set {key} to it"
            )
        raise ModelError(
            f"{name}: revision {found.sha[:8]} contains no {missing}, which PRISM needs (a pickled model can run any "
            f"code); name a model with safetensors in {key}"
        )
    remember("model", name, revision)
    FOLDERS[asked] = folder
    return folder


def lacking(folder: Path) -> str:
    """The first file of weights that a model's folder lacks; empty if it has all."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return next((shard for shard in sorted(set(shards)) if not (folder / shard).is_file()), "")
    return "" if any(folder.rglob("*.safetensors")) else ".safetensors file"


def recorded(kind: Kind, name: str, revision: str | None) -> dict[str, str]:
    """What the record says of a repository that this process read: its commit, and whether the hub named it."""
    found = COMMITS.get((kind, name, revision or "main"))
    if found is None:
        return {}
    origin = f"the local cache, since the hub did not give it ({found.cached})" if found.cached else "the hub"
    return {"revision": found.sha, "revision_from": origin}


def _refusal(asked: Asked, key: str, error: Exception, reason: str) -> PrismError:
    """The sentence for a repository that neither the hub nor the local cache gives."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    kind, name, revision = asked
    response, refused = _response(error), ModelError if kind == "model" else DataError
    what = "model" if kind == "model" else "data set"
    if isinstance(error, RevisionNotFoundError) or isinstance(error.__cause__, RevisionNotFoundError):
        table = key.partition(".")[0]
        return refused(f"{name}: the hub's {what} has no revision {revision}; check {table}.revision")
    if response is not None and response.status_code in (401, 403):
        page = f"{constants.ENDPOINT}/{'datasets/' * (kind == 'dataset')}{name}"
        return refused(
            f"{name}: the hub refuses it ({reason}), since it is gated, private or misspelt; accept its licence on "
            f"{page}, set HF_TOKEN (or run `hf auth login`), and check {key}"
        )
    if isinstance(error, HFValidationError | RepositoryNotFoundError):
        return refused(f"{name}: is neither a local folder nor a hub {what} that you can access; check {key}")
    if kind == "dataset":
        return refused(
            f"{name}: cannot be downloaded from the hub ({reason}); put the rows into DIR/NAME/train.jsonl, name NAME in "
            f"[data].name, and pass --prism-data DIR"
        )
    return refused(
        f"{name}: the model hub cannot be reached ({reason}); put the model into a local folder and set "
        f"{key} to it (for rows: --prism-data)"
    )
