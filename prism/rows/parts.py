"""Where the rows of one part come from: --prism-data, a local file or folder, or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism.errors import DataError
from prism.rows import Row
from prism.rows.files import SUFFIXES, read_rows
from prism.spec import Spec
from prism.store import hub
from prism.store.hub import Say
from prism.store.sources import is_local

# No data set of the hub ends so.
FILES = (*SUFFIXES, ".json", ".tsv", ".txt", ".xls", ".xlsx", ".gz", ".zip")


def is_hub_id(path: str, root: Path) -> bool:
    """Whether [data].path can be a data set of the hub. A mistyped file is none: nobody wants to wait for its download."""
    beside = (root / path.partition("/")[0]).is_dir()
    return not (is_local(path, root) or path.lower().endswith(FILES) or beside)


def stand_in(spec: Spec, data: Path | None) -> Path | None:
    """The folder of --prism-data that replaces [data].path; None if there is none."""
    folder = data / spec.data.name if data is not None and spec.data.name else None
    return folder if folder is not None and folder.is_dir() else None


@dataclass(frozen=True)
class LocalPart:
    """A part that lies here: its file, its name for messages, and the folder of its images."""

    file: Path
    name: str
    folder: Path


def local_part(spec: Spec, root: Path, data: Path | None, part: str) -> LocalPart | None:
    """Where a part lies, in --prism-data, a local file or folder; None if it is the hub's.

    Raises DataError if [data] does not fit a local file or folder, or a folder has no such part.
    """
    name = spec.data.path
    if folder := stand_in(spec, data):
        file = _find_part_file(folder, part)
        return LocalPart(file, str(file), folder)
    if is_hub_id(name, root):
        return None
    for key in ("revision", "subset"):
        if value := getattr(spec.data, key):
            raise DataError(f"{name}: is local, and has no {key} {value!r}; delete [data].{key}")
    path = (root / Path(name).expanduser()).resolve()
    if path.is_file() and (split := spec.data.split) and split.test:
        names, instead = " and ".join(filter(None, (split.train, split.test))), "set test_size in"
        raise DataError(
            f"{name}: is one file without the part{'s' * bool(split.train)} {names}; name a folder with one file a part, "
            f"or {instead if split.train else 'delete'} [data].split"
        )
    if path.is_dir():
        file = _find_part_file(path, part)
        return LocalPart(file, f"{name}/{file.name}", path)
    return LocalPart(path, name, path.parent)


def read_part(
    spec: Spec, root: Path, data: Path | None, part: str, say: Say
) -> tuple[list[Row], str, Path | None, Path]:
    """The rows of one part, from --prism-data, a local file or folder, or the hub.

    With them their name for messages, their file if they lie in one, and the folder of their images.
    """
    if found := local_part(spec, root, data, part):
        return read_rows(found.file), found.name, found.file, found.folder
    return _hub_rows(spec, part, say), spec.data.path, None, root


def _hub_rows(spec: Spec, part: str, say: Say) -> list[Row]:
    """The rows of one part of a hub data set at this run's commit."""
    from datasets import Image, load_dataset

    data = spec.data
    found = hub.commit("dataset", data.path, data.revision, "[data].path", say)
    try:
        if found.cached:
            rows = _cached_set(spec, found.sha).as_dataset(split=part)
        else:
            rows = load_dataset(data.path, data.subset, split=part, revision=found.sha)
        if any(Path(file["filename"]).parent.name != found.sha for file in rows.cache_files):
            # The hub failed only now, and datasets took the commit that it prepared last.
            rows = _cached_set(spec, found.sha).as_dataset(split=part)
        for column, feature in rows.features.items():
            if isinstance(feature, Image):  # its bytes: decoded, it would be turned and clipped without a word
                rows = rows.cast_column(column, Image(decode=False))
        read: list[Row] = rows.to_list()
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  # an unreachable hub raises any of a dozen types of three libraries
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, ValueError) and "config" in reason.lower():
            raise DataError(f"{data.path}: {reason}; name one in [data].subset") from None
        if isinstance(error, ValueError) and "split" in reason.lower():
            raise DataError(f"{data.path}: {reason}; name parts that it has in [data].split") from None
        raise DataError(
            f"{data.path}: cannot be downloaded from the hub ({reason}); put the rows into "
            f"DIR/{data.name or 'NAME'}/{part}.jsonl and pass --prism-data DIR"
        ) from None
    hub.remember("dataset", data.path, data.revision)
    return read


def _cached_set(spec: Spec, sha: str) -> Any:
    """The data set that `datasets` has prepared of a commit. Raises DataError if it has none, or several subsets."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache

    data = spec.data
    owner, _, name = data.path.rpartition("/")
    prepared = Path(config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}"
    folders = sorted(prepared.glob(f"{data.subset or '*'}/*/{sha}"))
    if not folders:
        raise DataError(
            f"{data.path}: the hub does not give it, and the local cache has no revision {sha[:8]}; put the rows into "
            f"DIR/{data.name or 'NAME'}/train.jsonl and pass --prism-data DIR"
        )
    subset, version, _ = folders[0].parts[-3:]
    if len(folders) > 1:
        names = ", ".join(folder.parts[-3] for folder in folders)
        raise DataError(f"{data.path}: the local cache has the subsets {names}; name one in [data].subset")
    return Cache(repo_id=data.path, dataset_name=name, config_name=subset, version=version, hash=sha)


def parts_of(spec: Spec, root: Path, data: Path | None) -> list[str]:
    """The parts that are read: the two of an official split, the one that is held out, or the one that is split."""
    split = spec.data.split
    if split is None or not spec.has_training_rows:  # a finished adapter: nobody says which rows it was trained on
        return [(split and split.test) or only_part(spec, root, data)]
    return [split.train, split.test] if split.train and split.test else ["train"]


def only_part(spec: Spec, root: Path, data: Path | None) -> str:
    """The one part of rows that all are held out; of several, one may be what the adapter was trained on."""
    folder = stand_in(spec, data)
    if folder is None and not is_hub_id(spec.data.path, root):
        folder = (root / Path(spec.data.path).expanduser()).resolve()
        if not folder.is_dir():
            return "train"  # a file is read whole, whatever its parts are called
    named = 'name the one to hold out in [data], such as split = { test = "test" }'
    if folder is None:
        raise DataError(f"{spec.id}: {spec.data.path} on the hub may have several parts; {named}")
    parts = {file.name.removesuffix(end) for end in SUFFIXES for file in folder.glob(f"*{end}")}
    if len(parts) > 1:
        raise DataError(f"{spec.id}: {folder.name} has the parts {', '.join(sorted(parts))}; {named}")
    return parts.pop() if parts else "train"


def _find_part_file(folder: Path, part: str) -> Path:
    for suffix in SUFFIXES:
        if (folder / f"{part}{suffix}").is_file():
            return folder / f"{part}{suffix}"
    raise DataError(f"{folder}: contains no {part}.jsonl(.gz), .csv or .parquet; check [data].path and split")
