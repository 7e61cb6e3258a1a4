"""The schema of a spec: one TOML file describes one experiment.

The tables `[lora]`, `[sft]` and `[generate]` use the libraries' own keyword names (LoraConfig, SFTConfig,
GenerationConfig). Those libraries check them, in `prism.models.train.check`, before the baseline is measured. Whether a
gate fits its task is checked in `prism.tasks.check`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prism.errors import SpecError

PROFILES = ("nano", "full")
# Set by PRISM from the spec's own keys, or a door to code that nobody reviewed.
RESERVED = {
    "lora": {"task_type", "auto_mapping", "base_model_name_or_path"},
    "sft": {"output_dir", "seed", "data_seed", "report_to", "trust_remote_code", "push_to_hub", "model_init_kwargs"},
    "generate": {
        "do_sample",
        "eos_token_id",
        "num_return_sequences",
        "output_scores",
        "pad_token_id",
        "return_dict_in_generate",
        "trust_remote_code",
    },
}


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Requires(Table):
    """What the machine must have: GiB of GPU memory, memory and disk. `minutes` is what a run is expected to take."""

    vram_gb: float | None = Field(None, gt=0)
    memory_gb: float | None = Field(None, gt=0)
    disk_gb: float | None = Field(None, gt=0)
    minutes: float | None = Field(None, gt=0)


class Split(Table):
    """Either test_size with at most one of stratify and group, or the names of two official parts."""

    test_size: float | int | None = Field(None, gt=0)
    stratify: str | None = None
    group: str | None = None
    train: str | None = None
    test: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        if (self.train is None) != (self.test is None):
            raise ValueError("an official split needs both train and test")
        if (self.test_size is None) == (self.train is None):
            raise ValueError("give either test_size or the official parts' names train and test")
        if self.stratify and self.group:
            raise ValueError("stratify and group exclude each other")
        if self.train and (self.stratify or self.group):
            raise ValueError(
                "stratify and group divide rows that have no official parts; delete them, or train and test"
            )
        if self.train and self.train == self.test:
            raise ValueError("train and test are the same part: it would be measured on its own training rows")
        if isinstance(self.test_size, float) and self.test_size >= 1:
            raise ValueError("test_size as a share must lie below 1; write a whole number for rows")
        return self


class Data(Table):
    path: str
    name: str | None = None
    split: Split
    columns: dict[str, str] = {}  # the task's column = yours
    where: dict[str, list[Any]] = {}  # keep rows whose column holds one of these
    dedupe: Literal["exact", "near"] | None = None  # remove training rows that have such a twin held out, then cut
    without: dict[str, list[Any]] = {}  # leave out rows whose column holds one of these
    train_rows: int | None = Field(None, gt=0)
    eval_rows: int | None = Field(None, gt=0)
    measured_on: str | None = None  # evaluation digest, 8 digits or more, that the thresholds were measured on


class Model(Table):
    model_name: str
    max_seq_length: int = Field(gt=0)
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    load_in_4bit: bool = False
    load_in_8bit: bool = False


class Semantic(Table):
    """Switches `semantic_similarity` on; needs the extra `semantic`."""

    model: str  # of sentence-transformers: a hub id, or a folder


class Judge(Table):
    """How tier 3 is judged. Whose judge it is, is no part of a spec: --prism-judge says that."""

    evaluation_steps: list[str] | None = None  # in place of the task's own, for its first GEval
    min_kappa: float | None = Field(
        None, ge=-1, le=1
    )  # a judge that agrees less with the calibration set decides nothing


class Threshold(Table):
    floor: float | None = Field(None, allow_inf_nan=False)
    ceiling: float | None = Field(None, allow_inf_nan=False)
    gain: float | None = Field(None, allow_inf_nan=False)
    drop: float | None = Field(None, ge=0, allow_inf_nan=False)
    provisional: str | None = None

    @model_validator(mode="after")
    def _some(self) -> Threshold:
        if all(value is None for value in (self.floor, self.ceiling, self.gain, self.drop)):
            raise ValueError("give at least one of floor, ceiling, gain, drop")
        return self


class Limit(BaseModel):
    """One threshold of a spec: the unit of the gate, and one pytest item."""

    model_config = ConfigDict(frozen=True)

    tier: str
    metric: str
    key: Literal["floor", "ceiling", "gain", "drop"]
    value: float
    provisional: str | None = None

    @property
    def id(self) -> str:
        return threshold_id(self.tier, self.metric, self.key)


def threshold_id(tier: str, metric: str, key: str) -> str:
    """The name of a threshold in pytest items, test reports and results."""
    return f"{tier}-{metric}-{key}"


class Spec(Table):
    title: str
    task: str
    profile: Literal["nano", "full"]
    requires: Requires = Requires()
    seed: int = Field(42, ge=0, lt=2**32)  # what scikit-learn and NumPy take
    data: Data
    model: Model
    adapter: str | None = None  # a folder with a finished adapter, in place of training
    lora: dict[str, Any] = {}
    sft: dict[str, Any] = {}
    generate: dict[str, Any]
    semantic: Semantic | None = None
    judge: Judge = Judge()
    gate: dict[Literal["tier1", "tier2", "tier3", "cost"], dict[str, Threshold]] = {}
    phase: str = ""  # from the folder: "phase1"
    name: str = ""  # from the file: "qwen3-4b"

    @model_validator(mode="after")
    def _trains_or_loads(self) -> Spec:
        if self.adapter is None and not (self.lora and self.sft):
            raise ValueError("[lora] and [sft] are missing; add them, or name a finished adapter with adapter = …")
        return self

    @property
    def id(self) -> str:
        return f"{self.phase}/{self.name}"

    def limits(self) -> Iterator[Limit]:
        """Every threshold, in the file's order."""
        for tier, metrics in self.gate.items():
            for metric, threshold in metrics.items():
                for key in ("floor", "ceiling", "gain", "drop"):
                    value = getattr(threshold, key)
                    if value is not None:
                        yield Limit(tier=tier, metric=metric, key=key, value=value, provisional=threshold.provisional)


def load_spec(path: Path) -> Spec:
    """Read and check one spec file.

    Raises SpecError with the file, table, key, value and remedy: one sentence, the first thing found wrong.
    """
    place = f"{path.parent.name}/{path.name}"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"{path}: no such spec; `prism specs` lists those that exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{place}: not valid TOML: {error}") from None
    for name in ("phase", "name"):
        if name in table:
            raise SpecError(f"{place} {name} = {table[name]!r}: comes from the folder and file name; delete the key")
    try:
        spec = Spec(**table, phase=path.parent.name, name=path.stem)
    except ValidationError as error:
        raise SpecError(f"{place} {_first(error)}") from None
    for name, keys in RESERVED.items():
        for key in keys & set(getattr(spec, name)):
            raise SpecError(
                f"{place} [{name}] {key}: is set by PRISM, or would run code that nobody reviewed; delete it"
            )
    stops = spec.generate.get("stop_strings", [])
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise SpecError(f"{place} [generate] stop_strings = {stops!r}: must be a list of texts, none of them empty")
    return spec


def _first(error: ValidationError) -> str:
    """The first problem in TOML's own terms: `[gate.tier1] accuracy.floor = 1.2: must …`."""
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"]]
    # Unions (float | int) add their branch to the location.
    where = [part for part in where if part not in ("float", "int")]
    depth = 2 if where[:1] == ["gate"] else 1 if len(where) > 1 else 0
    table = f"[{'.'.join(where[:depth])}] " if depth else ""
    key = ".".join(where[depth:])
    value = problem["input"]
    shown = "" if problem["type"] == "missing" or isinstance(value, dict) else f" = {value!r}"
    message = {
        "extra_forbidden": "unknown key; delete it or check its spelling",
        "missing": "is missing; add it",
    }.get(problem["type"], problem["msg"].removeprefix("Value error, ").replace("Input should", "must"))
    return f"{table}{key}{shown}: {message}"


def find_specs(folder: Path, phase: str = "*") -> list[Path]:
    """The spec files of one phase, or of all, under `folder` (benchmarks/specs), by phase and name."""
    return sorted(folder.glob(f"{phase}/*.toml"))


def find_phases(folder: Path) -> list[str]:
    """The phases: the folders under `folder` (benchmarks/specs)."""
    return sorted(path.name for path in folder.glob("[!._]*") if path.is_dir())
