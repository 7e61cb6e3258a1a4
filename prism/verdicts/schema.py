"""What a file of scores may say: its keys, their types, and names that are safe in a path.

`prism.verdicts.scores` writes and reads it. The numbers of its rows are many and are checked there, by NumPy.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from prism.spec import PathName

DEEPEST = 20
Seed = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}$")]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class MetricTable(_Table):
    """One metric; its statistics are those of its family."""

    tier: str
    version: int
    judge: str
    value: float | None
    ci: Annotated[list[float | None], Field(min_length=2, max_length=2)]
    seeds: Annotated[dict[Seed, float | None], Field(min_length=1)]
    family: Annotated[int, Field(ge=0)]
    width: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)] | None = None  # files of before have none
    gain: float | None = None  # nor this, which only metrics against a control have


class Shown(_Table):
    """A table of which code reads some keys; all of it is shown and written again."""

    @model_validator(mode="before")
    @classmethod
    def _can_be_written(cls, table: Any) -> Any:
        inside = [table]
        for _ in range(DEEPEST):
            inside = [
                part
                for each in inside
                if isinstance(each, dict | list)
                for part in (each.values() if isinstance(each, dict) else each)
            ]
        if inside:
            raise ValueError(f"is nested in over {DEEPEST} levels")
        json.dumps(table, allow_nan=False, ensure_ascii=False).encode()
        return table


class Training(Shown):
    adapters: dict[str, str] = {}


class Origin(Shown):
    date: str = ""
    accepted: str = ""
    commit: str | None = None
    looks: int | None = None


class ScoresFile(_Table):
    phase: PathName
    spec: PathName
    profile: str
    task: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,300}$")]
    evaluation_digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    metrics: Annotated[dict[str, MetricTable], Field(min_length=1)]
    training: Training
    origin: Origin
    rows: list[list[Any]]
    samples: Annotated[dict[str, list[Any]], Field(min_length=1)]
