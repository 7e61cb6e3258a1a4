"""`--prism-track`: losses and scores for the trackers that people watch, outside every identity and every report.

Each adapter is one run of a tracker, named by its digest. The trackers' own logs lie in the run's folder, and nothing leaves
the machine unless the tracker's own environment variables name a server. A tracker that fails is given up, in one sentence:
the benchmarks go on.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prism.errors import SpecError
from prism.redaction import redacted
from prism.spec import Spec
from prism.store import write_text
from prism.verdicts.record import Record, Result

PROJECT = "prism"
PACKAGES = {"mlflow": "mlflow-skinny sqlalchemy alembic"}  # where the package is called otherwise
PATIENCE = "5"  # seconds that a server may take to answer


class TrackerRun(Protocol):
    """One run of a tracker: numbers by step, and the end."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...


Log = Callable[[int, Mapping[str, float]], None]  # a step and its numbers
Open = Callable[[str, Path, Mapping[str, Any]], TrackerRun]  # name, folder of the logs, configuration


def _tensorboard(name: str, folder: Path, config: Mapping[str, Any]) -> TrackerRun:
    from tensorboard.summary import Writer  # torch's own would load torch, which a cached run does without

    class Logged:
        def __init__(self) -> None:
            self.writer = Writer(str(folder / name))
            write_text(folder / name / "config.json", json.dumps(config, indent=1))  # it has no place for words

        def log(self, step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                self.writer.add_scalar(key, value, step)
            self.writer.flush()

        def finish(self) -> None:
            self.writer.close()

    return Logged()


def _trackio(name: str, folder: Path, config: Mapping[str, Any]) -> TrackerRun:
    os.environ.setdefault("TRACKIO_DIR", str(folder))  # read when it is imported
    import trackio

    class Logged:
        def __init__(self) -> None:
            self.run = trackio.init(
                PROJECT, name=name, config=dict(config), embed=False, auto_log_cpu=False, auto_log_gpu=False
            )

        def log(self, step: int, values: Mapping[str, float]) -> None:
            self.run.log(dict(values), step=step)

        def finish(self) -> None:
            self.run.finish()

    return Logged()


def _mlflow(name: str, folder: Path, config: Mapping[str, Any]) -> TrackerRun:
    for key, value in {"MAX_RETRIES": "0", "TIMEOUT": PATIENCE}.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{key}", value)
    from mlflow import MlflowClient

    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db")

    class Logged:
        def __init__(self) -> None:
            known = client.get_experiment_by_name(PROJECT)
            where = known.experiment_id if known else client.create_experiment(PROJECT)
            self.id = client.create_run(where, run_name=name).info.run_id
            for key, value in config.items():
                client.log_param(self.id, key, value)

        def log(self, step: int, values: Mapping[str, float]) -> None:
            for key, value in values.items():
                client.log_metric(self.id, key, value, step=step)

        def finish(self) -> None:
            client.set_terminated(self.id)

    return Logged()


def _wandb(name: str, folder: Path, config: Mapping[str, Any]) -> TrackerRun:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)

    class Logged:
        def __init__(self) -> None:
            mode: Any = os.environ.get("WANDB_MODE", "offline")
            settings = wandb.Settings(
                init_timeout=float(PATIENCE), silent=True, console="off", x_disable_meta=True, x_disable_stats=True
            )
            self.run = wandb.init(
                project=PROJECT,
                name=name,
                dir=str(folder),
                config=dict(config),
                mode=mode,
                reinit="create_new",
                settings=settings,
            )

        def log(self, step: int, values: Mapping[str, float]) -> None:
            self.run.log(dict(values), step=step)

        def finish(self) -> None:
            self.run.finish()
            wandb.teardown()  # its process would go on writing to a folder that is sealed

    return Logged()


OPENERS: dict[str, Open] = {"trackio": _trackio, "mlflow": _mlflow, "tensorboard": _tensorboard, "wandb": _wandb}


def chosen(text: str) -> tuple[str, ...]:
    """The trackers of `--prism-track`, by name. Raises SpecError for one that PRISM does not know."""
    names = tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))
    for name in names:
        if name not in OPENERS:
            raise SpecError(f"--prism-track {name}: no such tracker; name {', '.join(OPENERS)}, several by comma")
    return names


@dataclass
class Trackers:
    """The trackers of a run. `folder` is where their logs go, `say` prints one sentence."""

    names: Sequence[str] = ()
    folder: Path = Path()
    say: Callable[[str], object] = print
    open: dict[tuple[str, str], TrackerRun] = field(default_factory=dict)  # by tracker and adapter
    given_up: set[str] = field(default_factory=set)
    last: dict[str, int] = field(default_factory=dict)  # the last step of each adapter's losses

    def losses(self, adapter: str, spec: Spec, seed: int) -> Log:
        """What a training calls with each step and its losses; `adapter` is a digest."""
        options = {"model": spec.model.model_dump(exclude_none=True), "lora": spec.lora, "sft": spec.sft}
        return self._losses(adapter, {"spec": spec.id, "seed": seed, **_flat(options)})

    def _losses(self, adapter: str, about: Mapping[str, Any]) -> Log:
        def log(step: int, values: Mapping[str, float]) -> None:
            self.last[adapter] = step
            self._log(adapter, about, step, values)

        return log

    def scores(self, result: Result) -> None:
        """Log every metric's values and 95 % intervals for each adapter of a spec, and end its run.

        The losses of an adapter from the store are logged from its record.
        """
        if not self.names:
            return
        adapters = result.details["digests"]
        digests = adapters.get("adapters") or {next(iter(result.seeds), ""): adapters["adapter"]}
        for seed, adapter in digests.items():
            about = {"spec": result.id, "seed": seed, **_flat(result.details.get("options") or {})}
            if adapter not in self.last:
                for step, loss in (result.details.get("loss") or {}).get(seed, ()):
                    self._losses(adapter, about)(step, {"loss": loss})
            values = {key: value for record in result.records for key, value in _values(record, seed).items()}
            self._log(adapter, about, self.last.get(adapter, 0) + 1, values)
            self._finish(adapter)

    def close(self) -> None:
        """End every run that is open, and remove links to logs: the run's folder is sealed, and may have none."""
        for _, adapter in list(self.open):
            self._finish(adapter)
        for path in list(self.folder.rglob("*")) if self.names else ():
            if path.is_symlink():
                path.unlink()

    def _log(self, adapter: str, about: Mapping[str, Any], step: int, values: Mapping[str, float]) -> None:
        known = {key: float(value) for key, value in values.items() if not math.isnan(value)}
        for name in self.names:
            self._try(name, lambda name=name: self._opened(name, adapter, about).log(step, known))  # type: ignore[misc]

    def _opened(self, name: str, adapter: str, about: Mapping[str, Any]) -> TrackerRun:
        if (name, adapter) not in self.open:
            config = {key: redacted(str(value)) for key, value in {**about, "adapter": adapter}.items()}
            title = f"{about['spec']}-seed-{about['seed']}-{adapter[:8]}".replace("/", "-")
            self.open[name, adapter] = OPENERS[name](title, self.folder / name, config)
        return self.open[name, adapter]

    def _finish(self, adapter: str) -> None:
        for name in self.names:
            if run := self.open.pop((name, adapter), None):
                self._try(name, run.finish)

    def _try(self, name: str, work: Callable[[], None]) -> None:
        """Whatever a tracker raises, the benchmarks do not depend on it."""
        if name in self.given_up:
            return
        try:
            work()
        except ImportError as error:
            self._give_up(name, f"it cannot be imported ({_first_line(error)}); pip install {PACKAGES.get(name, name)}")
        except Exception as error:  # noqa: BLE001  # each tracker has its own exceptions
            self._give_up(name, f"{type(error).__name__} ({_first_line(error)})")

    def _give_up(self, name: str, why: str) -> None:
        self.given_up.add(name)
        self.say(f"--prism-track {name}: {why}; nothing more is tracked there, and the run goes on")


def _first_line(error: Exception) -> str:
    return redacted(next(iter(str(error).splitlines()), "")[:200])


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for key, value in options.items():
        pairs |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return pairs


def _values(record: Record, seed: str) -> dict[str, float]:
    name = "".join(letter if letter.isalnum() or letter in "_-. " else "_" for letter in record.metric)
    return {
        f"{name}/tuned": record.seeds.get(seed, record.tuned.value),
        f"{name}/tuned_low": record.tuned.ci[0],
        f"{name}/tuned_high": record.tuned.ci[1],
        f"{name}/baseline": record.baseline.value,
        f"{name}/gain": record.gain.value,
        f"{name}/gain_low": record.gain.ci[0],
        f"{name}/gain_high": record.gain.ci[1],
    }
