"""Makes the training and held-out examples from the rows of a spec."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prism.errors import DataError
from prism.progress import CONSOLE
from prism.rows import Example, Row
from prism.rows.files import SUFFIXES, read_rows, require_columns
from prism.rows.images import prepare, read_sources
from prism.rows.leaks import Kind, Leaks, leaking_places
from prism.rows.splits import split_places, unique_ids
from prism.spec import Spec
from prism.store import hub
from prism.store.hub import Say
from prism.store.sources import is_local

SplitPlaces = Callable[[Sequence[Row], Mapping[str, Any], int], tuple[list[int], list[int]]]
LeakingPlaces = Callable[[Sequence[Example], Sequence[Example], Kind], Collection[int]]


@dataclass(frozen=True)
class Examples:
    """What a spec measures. `training` is empty for a finished adapter whose training rows are unknown."""

    training: list[Example]
    held_out: list[Example]
    leaks: Leaks
    removed: int  # training rows that [data].dedupe left out


class Reader(Protocol):
    """What `load_examples` needs of a task; `prism.tasks.Task` implements it."""

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[str]: ...  # empty if answers are free text

    @property
    def example(self) -> Callable[[Row, str], Example]: ...

    @property
    def rows(self) -> Callable[[Row, Spec], list[Row]]: ...

    @property
    def images(self) -> Sequence[str]: ...  # the columns that hold images


def load_examples(
    spec: Spec,
    task: Reader,
    root: Path,
    data: Path | None = None,
    places: SplitPlaces = split_places,
    leaking: LeakingPlaces = leaking_places,
    pictures: Path | None = None,
    say: Say = CONSOLE.say,
) -> tuple[list[Example], list[Example]]:
    """The training and the held-out examples of a spec, in a fixed order; no training ones if the spec names none.

    `data` is --prism-data: a folder whose subfolder [data].name replaces [data].path. `places` splits rows that have no
    official parts. `leaking` returns the indices of the training rows that [data].dedupe removes before train_rows is
    applied. `pictures` is the folder of prepared images, which a task with images needs; `say` is told where the hub
    keeps us waiting. Raises DataError if rows, columns, classes or images are missing, or an image cannot be used.
    """
    prepared = _Prepared(spec, task, pictures)
    split = spec.data.split
    pool: list[Row]
    if split is None or not spec.has_training_rows:  # a finished adapter: nobody says which rows it was trained on
        rows = _read_rows(spec, task, root, data, (split and split.test) or _only_part(spec, root, data), say)
        pool, held_out_pool = [], _shuffled(rows, spec.seed)
    elif split.train and split.test:
        parts = [_read_rows(spec, task, root, data, name, say) for name in (split.train, split.test)]
        pool, held_out_pool = _shuffled(parts[0], spec.seed), _shuffled(parts[1], spec.seed)
    else:
        rows = _read_rows(spec, task, root, data, "train", say)
        train, test = places(rows, split.model_dump(exclude_none=True), spec.seed)
        pool, held_out_pool = [rows[i] for i in train], [rows[i] for i in test]
    held_out_rows = held_out_pool[: spec.data.eval_rows]
    if spec.data.dedupe:
        pool = _remove_leaks(spec, prepared, pool, held_out_rows, spec.data.dedupe, leaking)
    selected = pool[: spec.data.train_rows], held_out_rows
    training, held_out = (prepared.examples(part) for part in selected)
    for part, name in ((training, "training"), (held_out, "held-out")):
        if name == "training" and not spec.has_training_rows:
            continue
        if not part:
            raise DataError(f"{spec.id}: there are no {name} rows; check [data]")
        classes = {example.reference for example in part}
        if task.labels and len(classes) < 2:
            raise DataError(
                f'{spec.id}: all {len(part)} {name} rows are "{classes.pop()}"; one class cannot be learned or measured'
            )
    return training, held_out


@dataclass(frozen=True)
class _Prepared:
    """Makes examples of rows whose images are prepared first."""

    spec: Spec
    task: Reader
    folder: Path | None

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        return [self.task.example(self._row(row, row_id), row_id) for row, row_id in zip(rows, unique_ids(rows))]

    def _row(self, row: Row, row_id: str) -> Row:
        if not self.task.images:
            return row
        if self.spec.image is None or self.folder is None:
            raise DataError(f"{self.spec.id}: its task has images, so the spec needs the table [image]; add it")
        images = {
            column: prepare(row[column], self.spec.image, self.folder, f"sample {row_id}")
            for column in self.task.images
        }
        return {**row, **images}


def _remove_leaks(
    spec: Spec, prepared: _Prepared, pool: list[Row], held_out_rows: list[Row], kind: Kind, leaking: LeakingPlaces
) -> list[Row]:
    training, held_out = map(prepared.examples, (pool, held_out_rows))
    removed = leaking(training, held_out, kind)
    remaining = [row for index, row in enumerate(pool) if index not in removed]
    if not remaining:
        raise DataError(
            f'{spec.id}.toml [data].dedupe = "{kind}": each of {len(pool)} training rows has a held-out twin; '
            f"name parts with different rows in [data].split"
        )
    return remaining


def _make_example(task: Reader, row: Row, name: str) -> Example:
    try:
        return task.example(row, name)
    except DataError as error:
        raise DataError(str(error) if name in str(error) else f"{name}: {error}") from None


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    import numpy

    return [rows[i] for i in numpy.random.default_rng(seed).permutation(len(rows))]


def _read_rows(spec: Spec, task: Reader, root: Path, data: Path | None, part: str, say: Say) -> list[Row]:
    """The rows of a part, one a question, with the task's column names and their images found."""
    rows, folder = _read_part(spec, root, data, part, say)
    questions = [question for row in rows for question in task.rows(row, spec)]
    mapped = read_sources(_map_columns(spec, task, questions), task.images, folder, spec.data.path)
    if task.labels:  # report an unknown label as such; the split would report too few rows
        for number, row in enumerate(mapped, start=1):
            _make_example(task, row, f"{spec.data.path}, row {number}")
    return mapped


def _map_columns(spec: Spec, task: Reader, rows: Sequence[Row]) -> list[Row]:
    """Rows with the task's column names that match [data].where and do not match [data].without."""
    where, without = spec.data.where, spec.data.without
    columns = spec.data.columns
    for column in columns.values():
        require_columns(rows, [column], spec.data.path)
    rows = [
        {column: value for column, value in row.items() if column not in columns.values()}
        | {task_column: row[own_column] for task_column, own_column in columns.items()}
        for row in rows
    ]
    require_columns(rows, [*task.columns, *where, *without], spec.data.path)
    selected = [
        row
        for row in rows
        if all(row[column] in values for column, values in where.items())
        and not any(row[column] in values for column, values in without.items())
    ]
    if not selected:
        filters = f"where = {where}" + (f", without = {without}" if without else "")
        raise DataError(f"{spec.id}.toml [data].{filters}: keeps none of {len(rows)} rows; allow more values")
    return selected


def stand_in(spec: Spec, data: Path | None) -> Path | None:
    """The folder of --prism-data that replaces [data].path; None if there is none."""
    folder = data / spec.data.name if data is not None and spec.data.name else None
    return folder if folder is not None and folder.is_dir() else None


def _read_part(spec: Spec, root: Path, data: Path | None, part: str, say: Say) -> tuple[list[Row], Path]:
    """The rows of one part, from --prism-data, a local file or folder, or the hub; and the folder of their images."""
    if folder := stand_in(spec, data):
        return read_rows(_find_part_file(folder, part)), folder
    if is_local(spec.data.path, root):
        for key in ("revision", "subset"):
            if value := getattr(spec.data, key):
                raise DataError(f"{spec.data.path}: is local, and has no {key} {value!r}; delete [data].{key}")
        path = (root / Path(spec.data.path).expanduser()).resolve()
        if path.is_file() and (split := spec.data.split) and split.test:
            names, instead = " and ".join(filter(None, (split.train, split.test))), "set test_size in"
            raise DataError(
                f"{spec.data.path}: is one file without the part{'s' * bool(split.train)} {names}; name a folder with "
                f"one file a part, or {instead if split.train else 'delete'} [data].split"
            )
        rows = read_rows(_find_part_file(path, part) if path.is_dir() else path)
        return rows, path if path.is_dir() else path.parent
    return _hub_rows(spec, part, say), root


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


def _only_part(spec: Spec, root: Path, data: Path | None) -> str:
    """The one part of rows that all are held out; of several, one may be what the adapter was trained on."""
    folder = stand_in(spec, data)
    if folder is None and is_local(spec.data.path, root):
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
