"""The state of one pytest run in each of its processes: options, specs and the folder of its results."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prism.devices import cuda_devices
from prism.errors import PrismError
from prism.experiment import Experiment
from prism.judge.choosing import choose
from prism.judge.spending import Budget, Spending
from prism.judge.tier3 import Judge
from prism.plugin import results
from prism.plugin.results import Results
from prism.plugin.scheduling import choose_profile, lacking, limited, require, training_seeds
from prism.plugin.screen import Screen
from prism.report.tracking import Trackers, chosen
from prism.setting import Setting
from prism.spec import Spec, find_phases, find_specs
from prism.store import Store
from prism.store.homes import open_store
from prism.tasks.check import load_checked_spec
from prism.verdicts.alarms import Over, require_whole_history
from prism.verdicts.record import Run

if TYPE_CHECKING:
    from prism.cluster.running import Cluster

JOB_SUMMARY = 2**20  # bytes: GitHub shows no step summary that is larger


class Session:
    """One instance per process; hooks and fixtures delegate to it."""

    key = pytest.StashKey["Session"]()

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        self.config = config
        self.worker = hasattr(config, "workerinput")
        self.screen = Screen(config)
        if option("--prism-engine"):
            os.environ["PRISM_ENGINE"] = option("--prism-engine")
        self.setting = Setting(
            root=config.rootpath,
            store=_store(option, self.screen),
            screen=self.screen,
            data=option("--prism-data") and Path(option("--prism-data")).expanduser().resolve(),
            models=option("--prism-models") and Path(option("--prism-models")).expanduser().resolve(),
            judge=_judge(option("--prism-judge"), option("--prism-judge-budget")),
            required=option("--prism-require"),
            retrain=option("--prism-retrain"),
            alarms=_alarms(option("--prism-alarms"), config.rootpath),
        )
        address = option("--prism-cluster")
        self.cluster = _cluster(address, self.setting) if address and not self.worker else None
        self.reports = (config.rootpath / Path(option("--prism-report")).expanduser()).resolve()
        self._seeds: str = option("--prism-seeds")
        self.limit: int | None = option("--prism-limit")
        self.profile, self.why = choose_profile(option("--prism-profile"), find_specs(self.folder))
        self.chosen: list[str] = option("--prism-spec")
        worker_input = getattr(config, "workerinput", {})
        self.run_id = worker_input.get("prism_run_id") or results.new_id()
        self.gpus = worker_input.get("prism_gpus")  # of all workers, so that all collect the same items
        self.results = Results(self.reports, self.run_id, worker_input.get("workerid", "main"))
        self.setting.track = _trackers(option("--prism-track"), self.results.folder / "track", self.screen)
        self.broken: list[str] = []  # items that raised before their verdict, or crashed their worker
        self.has_spec_items = False  # whether any item tests a threshold, or a spec without thresholds
        self.interrupted = ""
        self._specs: dict[str, list[Spec]] = {}
        self._experiments: dict[str, Experiment] = {}
        self._begun: dict[str, Experiment] = {}  # on a cluster

    @property
    def folder(self) -> Path:
        """The folder of the spec files, with one subfolder per phase."""
        return self.setting.root / "benchmarks" / "specs"

    @cached_property
    def phases(self) -> list[str]:
        return find_phases(self.folder)

    @property
    def marks(self) -> list[str]:
        """The phases' pytest marks, those of benchmark files without specs (test_<mark>_<name>.py) included."""
        files = (self.setting.root / "benchmarks").glob("test_*_*.py")
        return sorted({*self.phases, *(file.name.split("_")[1] for file in files)})

    def specs(self, phase: str) -> list[Spec]:
        """The specs of a phase that belong to the profile, or those that --prism-spec names."""
        if phase not in self._specs:
            found = [load_checked_spec(path) for path in find_specs(self.folder, phase)]
            self._specs[phase] = [limited(spec, self.limit) for spec in found if self._is_chosen(spec)]
        return self._specs[phase]

    def all_specs(self) -> list[Spec]:
        return [spec for phase in self.phases for spec in self.specs(phase)]

    def _is_chosen(self, spec: Spec) -> bool:
        if self.chosen:
            return spec.name in self.chosen or spec.id in self.chosen
        return spec.profile == self.profile

    def seeds(self, spec: Spec) -> list[int]:
        """The training seeds of a spec."""
        return [spec.seed] if spec.adapter else training_seeds(self._seeds, spec.seed)

    def lacking(self, spec: Spec) -> str:
        return lacking(spec, self.setting.root, self.setting.data, self.gpus)

    def experiment(self, spec: Spec) -> Experiment:
        """The experiment of a spec, one for all tests. Raises ResourceError if the machine lacks memory or disk for it.

        Raises ClusterError if a task of it has failed on a cluster; else what tasks make is there.
        """
        if spec.id not in self._experiments:
            self.screen.begin(spec.id)
            if self.cluster and (spec.id not in self._begun):
                self.begin([spec])
            if self.cluster and (begun := self._begun.get(spec.id)):
                self.cluster.wait(begun)
                self._experiments[spec.id] = begun
            else:
                require(spec, self.setting.store.home)
                self._experiments[spec.id] = Experiment(spec, self.setting, self.seeds(spec))
        return self._experiments[spec.id]

    def look_at_cluster(self) -> None:
        """Join the cluster now if the GPUs that decide digests, and which specs run, are not this machine's."""
        specs = self.all_specs()
        foreign = not cuda_devices() and not all(spec.sft.get("use_cpu") for spec in specs)
        if self.cluster and (foreign or any(spec.requires.vram_gb and self.lacking(spec) for spec in specs)):
            cards = [card for node in self.cluster.nodes.nodes for card in node.cards]
            self.gpus = [max(cards, key=lambda card: card[1])] if cards else None

    def begin(self, specs: Sequence[Spec]) -> None:
        """Start on the cluster what the store lacks of these specs."""
        assert self.cluster is not None
        self._begun |= self.cluster.begin([(spec, self.seeds(spec)) for spec in specs])

    def finish(self) -> Run | None:
        """Publish the report of the measured specs; None if no spec was fully measured."""
        self.setting.track.close()
        found = self.results.gather()
        if not found:
            self.results.discard()
            return None
        from prism.models.identity import TRAINING_LIBRARIES
        from prism.store.provenance import provenance

        partial = results.partial(found, self.broken, self.interrupted, self.limit)
        verdict, reason = results.verdict(found, self.broken, self.setting.required)
        run = Run(
            id=self.run_id,
            results=found,
            complete=not partial,
            partial=partial,
            verdict=verdict,
            reason=reason,
            command="pytest " + shlex.join(self.config.invocation_params.args),
            provenance=provenance(self.setting.root, TRAINING_LIBRARIES),
            title=self.config.getoption("--prism-report-title"),
        )
        folder = self.results.publish(run, self.setting.store)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            self._add_to_job_summary(Path(summary), (folder / "report.md").read_text(encoding="utf-8"))
        return run

    def _add_to_job_summary(self, path: Path, page: str) -> None:
        try:
            size = path.stat().st_size if path.exists() else 0
            if size + len(page.encode()) > JOB_SUMMARY:
                self.screen.say(f"{path} has {size:,} bytes: report left out, as GitHub shows no summary above 1 MiB")
                return
            with path.open("a", encoding="utf-8") as file:
                file.write(page)
        except OSError as error:
            self.screen.say(f"$GITHUB_STEP_SUMMARY {path}: {error.strerror}; the report itself is written")


def _cluster(address: str, setting: Setting) -> Cluster:
    from prism.cluster.running import Cluster

    return Cluster(address, setting)


def _store(option: Callable[[str], str | None], screen: Screen) -> Store:
    try:
        return open_store(option("--prism-home"), screen.say, option("--prism-cache"), option("--prism-cache-gib"))
    except PrismError as error:
        raise pytest.UsageError(str(error)) from None


def _trackers(names: str, folder: Path, screen: Screen) -> Trackers:
    try:
        return Trackers(chosen(names), folder, screen.say)
    except PrismError as error:
        raise pytest.UsageError(str(error)) from None


def _alarms(over: Over, root: Path) -> Over:
    """Over what false alarms are shared; a history that is cut off is refused before hours of training."""
    try:
        if over == "reference":
            require_whole_history(root)
    except PrismError as error:
        raise pytest.UsageError(str(error)) from None
    return over


def _judge(text: str | None, budget: str | None) -> Judge | None:
    """The requested judge and the record of its spending; None if no judge is requested."""
    try:
        choice, limit = choose(text), Budget.parse(budget) if budget else None
        return (choice, Spending(choice.price, limit)) if choice else None
    except PrismError as error:
        raise pytest.UsageError(str(error)) from None
