"""The schema of a spec: one TOML file describes one experiment.

The tables `[lora]`, `[sft]` and `[generate]` use the libraries' own keyword names (LoraConfig, SFTConfig,
GenerationConfig). Those libraries check them before the baseline is measured, in `prism.models.train.check` and
`prism.models.generate.check`.
`[generate.template]` holds the arguments of the model's chat template. `prism.tasks.check` checks whether a gate fits its
task.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

PROFILES = ("nano", "small", "full")
# A name that becomes a folder or a part of a file's name, on any system, and of a pattern that finds it; "@" ends it in
# the names of accepted files.
PATH_NAME = re.compile(r"(?![ .])[^\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff/\\:*?\"<>|@\[\]]{1,80}(?<![ .])")


def _path_name(name: str) -> str:
    if not PATH_NAME.fullmatch(name):
        raise ValueError(
            f'{name[:80]!r} must be a plain name of at most 80 characters, without / \\ : * ? " < > | @ [ ]'
        )
    return name


PathName = Annotated[str, AfterValidator(_path_name)]


class Table(BaseModel):
    # What a key's description says, `prism schema` tells an editor. Read off docstrings it would take 20 ms of each start.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Requires(Table):
    """What the machine must have: GiB of GPU memory, RAM and disk. `minutes` is the expected duration of a run."""

    vram_gb: float | None = Field(None, gt=0)
    memory_gb: float | None = Field(None, gt=0)
    disk_gb: float | None = Field(None, gt=0)
    minutes: float | None = Field(None, gt=0)


class Split(Table):
    """Either test_size with at most one of stratify and group, or the names of two official splits (parts).

    With a finished adapter, whose training rows are unknown, `test` may stand alone: the part that is held out.
    """

    test_size: float | int | None = Field(None, gt=0)
    stratify: str | None = None
    group: str | None = None
    train: str | None = None
    test: str | None = None

    @model_validator(mode="after")
    def _check_split_kind(self) -> Split:
        if self.train and not self.test:
            raise ValueError("an official split needs both train and test")
        if (self.test_size is None) == (self.test is None):
            raise ValueError("give either test_size or the official parts' names train and test")
        if self.stratify and self.group:
            raise ValueError("stratify and group exclude each other")
        if self.test and (self.stratify or self.group):
            raise ValueError(
                "stratify and group split rows that have no official parts; delete them, or train and test"
            )
        if self.train and self.train == self.test:
            raise ValueError("train and test are the same part, but training rows must not be held out; name two parts")
        if isinstance(self.test_size, float) and self.test_size >= 1:
            raise ValueError("test_size as a share must be below 1; write a whole number for rows")
        return self


class Data(Table):
    path: str = Field(description="A hub id, or a folder or file.")
    name: str | None = Field(
        None, description="The folder in --prism-data that replaces `path`; a nano spec with it needs that folder."
    )
    revision: str | None = Field(
        None, min_length=1, description="A branch, a tag or a commit of the hub; by default main."
    )
    subset: str | None = Field(None, min_length=1, description="The configuration of a hub data set that has several.")
    split: Split | None = Field(None, description="Without it all rows are held out, for a finished adapter.")
    columns: dict[str, str] = Field({}, description="The task's column name = yours.")
    where: dict[str, list[Any]] = Field({}, description="Column = values; keep only these rows.")
    dedupe: Literal["exact", "near"] | None = Field(
        None, description="Remove training rows with a held-out twin, before train_rows."
    )
    without: dict[str, list[Any]] = Field({}, description="Column = values; exclude these rows.")
    train_rows: int | None = Field(None, gt=0, description="At most so many training rows; the spec's seed draws them.")
    eval_rows: int | None = Field(None, gt=0, description="At most so many held-out rows, drawn likewise.")
    measured_on: str | None = Field(
        None, description="Digest of the evaluation that gave the thresholds, at least 8 digits."
    )


class Model(Table):
    model_name: str = Field(description="A hub id, or a folder.")
    revision: str | None = Field(
        None, min_length=1, description="A branch, a tag or a commit of the hub; by default main."
    )
    max_seq_length: int = Field(
        gt=0, description="Tokens of a question and its answer; a question that does not fit is refused."
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="By default float32 on a CPU, bfloat16 on a GPU."
    )
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    measured_with: str | None = Field(
        None, description="The base that gave the thresholds: the first digits of its digest or revision."
    )

    @property
    def quantized(self) -> bool:
        return self.load_in_4bit or self.load_in_8bit


class Image(Table):
    """How images are prepared, the same for training and answering. A task with images needs this table."""

    size: int | tuple[int, int] | None = Field(None, description="Pixels: a square's side, or [width, height].")
    max_pixels: int | None = Field(
        None, gt=0, description="For models of dynamic resolution: larger images are scaled down."
    )
    fit: Literal["pad", "stretch"] = Field("pad", description="To `size`: keep the proportion, or not; never a crop.")
    background: str = Field("black", description='Of padding and of transparent pixels: a name, or "#rrggbb".')
    depth: Literal["scale", "refuse"] = Field(
        "refuse", description="16 bits a pixel: scale the image's own range to 8, or refuse."
    )
    frames: Literal["first", "refuse"] = Field("refuse", description="Animated and multi-page images.")
    max_megapixels: float = Field(50, gt=0, description="Read from the header, before decoding.")

    @model_validator(mode="before")
    @classmethod
    def _read_size(cls, table: Any) -> Any:
        if isinstance(table, dict) and isinstance(table.get("size"), list):
            return {**table, "size": tuple(table["size"])}  # TOML has no tuples
        return table

    @model_validator(mode="after")
    def _check(self) -> Image:
        if (self.size is None) == (self.max_pixels is None):
            raise ValueError("give either size or max_pixels")
        sides = (self.size,) if isinstance(self.size, int) else self.size or ()
        if any(side < 1 for side in sides):
            raise ValueError("size must be above 0 pixels")
        if not re.fullmatch(r"[a-z]+|#[0-9a-fA-F]{6}", self.background):
            raise ValueError(f'background = "{self.background}": must be a colour\'s name or "#rrggbb"')
        return self


class Classify(Table):
    """The task `classify`, whole. `prompt` and `system` hold {column} placeholders, {labels} and {descriptions}."""

    labels: list[str] = []
    descriptions: dict[str, str] = Field(
        {}, description="Label = what it means; the keys are the labels if `labels` is left out."
    )
    prompt: str
    system: str | None = None
    column: str = Field("label", description="The column of the gold label.")


class Answer(Table):
    """The task `answer`, whole. `prompt` and `system` hold {column} placeholders."""

    prompt: str
    system: str | None = None
    column: str = Field("answer", description="The column of the gold answer.")
    lexicon: str | None = Field(
        None, description="A file of terms, from the spec's folder; it adds coverage and failure patterns."
    )


class Launch(Table):
    """How training is started."""

    processes: int = Field(
        1, ge=1, description="Data parallelism over so many GPUs; each takes its share of per_device_train_batch_size."
    )


class Semantic(Table):
    """Adds the metric `semantic_similarity`; needs the extra `semantic`."""

    model: str = Field(description="A sentence-transformers model: a hub id, or a folder.")


class Judge(Table):
    """How tier 3 is judged. A spec does not choose the judge; --prism-judge does."""

    evaluation_steps: list[str] | None = Field(None, description="Replace those of the task's first GEval.")
    min_kappa: float | None = Field(
        None, ge=-1, le=1, description="A judge that agrees less with the calibration set decides no threshold."
    )


class Threshold(Table):
    floor: float | None = Field(None, allow_inf_nan=False, description="The tuned value is at least this.")
    ceiling: float | None = Field(None, allow_inf_nan=False, description="The tuned value is at most this.")
    gain: float | None = Field(
        None, allow_inf_nan=False, description="Tuned minus baseline is at least this, and shown to be above 0."
    )
    drop: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="The loss against the accepted run that is tolerated."
    )
    provisional: str | None = Field(None, description="Why the threshold was not measured here: its source.")

    @model_validator(mode="after")
    def _check_some_key(self) -> Threshold:
        if all(value is None for value in (self.floor, self.ceiling, self.gain, self.drop)):
            raise ValueError("give at least one of floor, ceiling, gain, drop")
        return self


class Limit(BaseModel):
    """One threshold of a spec: one decision of the gate, and one pytest item."""

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
    title: str = Field(description="Heads its part of the report.")
    task: str = Field(
        description="A module of prism/tasks (classify, answer, financial_sentiment …), or a file beside the spec: ./my_task.py."
    )
    profile: Literal["nano", "small", "full"] = Field(
        description="Which --prism-profile runs it: embedded models on a CPU, a published one of 135 M, the published recipes on a GPU."
    )
    requires: Requires = Requires()
    seed: int = Field(
        42, ge=0, lt=2**32, description="Of the split, and of the first adapter; --prism-seeds trains more."
    )  # the range that scikit-learn and NumPy accept
    data: Data
    model: Model
    adapter: str | None = Field(None, description="A finished adapter, which replaces training: a folder, or a hub id.")
    lora: dict[str, Any] = Field({}, description="Keywords of peft.LoraConfig; with images also placement.")
    sft: dict[str, Any] = Field({}, description="Keywords of trl.SFTConfig.")
    launch: Launch = Launch()
    generate: dict[str, Any] = Field(
        description="Keywords of transformers.GenerationConfig; [generate.template] holds arguments of the chat template."
    )
    image: Image | None = None
    classify: Classify | None = None
    answer: Answer | None = None
    semantic: Semantic | None = None
    judge: Judge = Judge()
    gate: dict[Literal["tier1", "tier2", "tier3", "cost"], dict[str, Threshold]] = Field(
        {}, description="Thresholds by tier and metric; `prism thresholds SPEC` measures and proposes some."
    )
    phase: PathName = ""  # from the folder: "phase1"
    name: PathName = ""  # from the file: "qwen3-4b"
    folder: Path = Path()  # of the file

    @model_validator(mode="after")
    def _check_adapter_source(self) -> Spec:
        if self.adapter is None and not (self.lora and self.sft):
            raise ValueError("[lora] and [sft] are missing; add them, or name a finished adapter with adapter = …")
        if self.lora and bool(self.image) != ("placement" in self.lora):
            if self.image is None:
                raise ValueError("[lora] placement is for vision-language models, which need [image]; delete it")
            raise ValueError(
                "[lora] placement is missing: names of target_modules reach the tower of one family and not of "
                'another\'s; write "language", "projector", "tower", a list of these, or "all"'
            )
        return self

    @model_validator(mode="after")
    def _check_task_table(self) -> Spec:
        for name in ("classify", "answer"):
            if getattr(self, name) is not None and self.task != name:
                raise ValueError(f'[{name}] is for task = "{name}", not "{self.task}"; delete it, or change the task')
        return self

    @model_validator(mode="after")
    def _check_training_rows(self) -> Spec:
        split = self.data.split
        if self.has_training_rows:
            return self
        if self.adapter is None:
            given = "names no training part" if split else "is missing"
            raise ValueError(f"[data] split {given}, so there are no training rows; add train = …, or test_size = …")
        for key in ("train_rows", "dedupe"):
            if getattr(self.data, key) is not None:
                raise ValueError(f"[data] {key} selects training rows, but [data].split names none; delete {key}")
        return self

    @property
    def has_training_rows(self) -> bool:
        """Whether the spec names training rows; of a finished adapter that is what its owner claims."""
        split = self.data.split
        return split is not None and bool(split.train or split.test_size)

    @property
    def sharded(self) -> bool:
        """Whether FSDP divides the base among the processes that train it, because no GPU holds it whole."""
        return bool(self.sft.get("fsdp"))

    @property
    def id(self) -> str:
        return f"{self.phase}/{self.name}"

    @property
    def template(self) -> dict[str, Any]:
        """The arguments of the model's chat template: [generate.template]."""
        return dict(self.generate.get("template", {}))

    @property
    def task_file(self) -> str:
        """The task as scores name it: the path of its file from the root, if it is a file beside the spec."""
        if not self.task.endswith(".py"):
            return self.task
        return posixpath.normpath(posixpath.join("benchmarks/specs", self.phase, self.task))

    def limits(self) -> Iterator[Limit]:
        """Every threshold, in the file's order."""
        for tier, metrics in self.gate.items():
            for metric, threshold in metrics.items():
                for key in ("floor", "ceiling", "gain", "drop"):
                    value = getattr(threshold, key)
                    if value is not None:
                        yield Limit(tier=tier, metric=metric, key=key, value=value, provisional=threshold.provisional)
