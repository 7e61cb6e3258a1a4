"""What one pytest run knows and keeps, in whichever process it runs: `Session`.

It is created in every process; under xdist the workers write each finished spec to the run's folder, and the controller
joins them into the report.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prism.errors import PrismError, ResourceError, StoreError
from prism.identity import own_source, versions
from prism.judge.asking import Choice, choose
from prism.judge.spending import Budget, Spending
from prism.record import Result, Run, from_json, to_json
from prism.report import words
from prism.scheduling import choose_profile, lacking, resources, training_seeds
from prism.spec import Spec, declared_drops, find_specs, limit_id, load_spec
from prism.store import Store, unwritable, write_text

if TYPE_CHECKING:
    from prism.reference import Reference

JOB_SUMMARY = 2**20  # bytes: GitHub shows a step's summary whole or, above this, not at all


class Session:
    """What one pytest run knows: the chosen profile, its specs, where things lie, what was found."""

    key = pytest.StashKey["Session"]()

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        self.config = config
        self.root = config.rootpath
        self.worker = hasattr(config, "workerinput")
        self.data: Path | None = option("--prism-data") and Path(option("--prism-data")).expanduser().resolve()
        home = option("--prism-home") or os.environ.get("PRISM_HOME") or "~/.cache/prism"
        self.store = Store(Path(home).expanduser().resolve(), self.say)
        self.reports = (self.root / Path(option("--prism-report")).expanduser()).resolve()
        self.retrain: bool = option("--prism-retrain")
        self._seeds: str = option("--prism-seeds")
        self.required: list[str] = option("--prism-require")
        self.judge = _judge(option("--prism-judge"), option("--prism-judge-budget"))
        self.profile, self.why = choose_profile(option("--prism-profile"))
        self.chosen: list[str] = option("--prism-spec")
        told = getattr(config, "workerinput", {})
        self.run_id = told.get("prism_run_id") or new_run_id()
        self.gpus = told.get("prism_gpus")  # of all workers, so that all collect the same
        self.made: set[Path] = set()
        self.states: dict[str, dict[str, str]] = {}  # spec id: threshold id: state, from the test reports
        self.broken: list[str] = []  # items that raised before they could decide, or took their worker down
        self.asked = False  # whether any item stood for a threshold, or for a spec that lacks them
        self.interrupted = ""
        self.report_folder: Path | None = None
        self._specs: dict[str, list[Spec]] = {}

    def specs(self, phase: str) -> list[Spec]:
        """The specs of a phase that belong to the profile, or those that --prism-spec names."""
        if phase not in self._specs:
            found = [load_spec(path) for path in find_specs(self.root / "benchmarks" / "specs", phase)]
            self._specs[phase] = [spec for spec in found if self._is_chosen(spec)]
        return self._specs[phase]

    def _is_chosen(self, spec: Spec) -> bool:
        if self.chosen:
            return spec.name in self.chosen or spec.id in self.chosen
        return spec.profile == self.profile

    def seeds(self, spec: Spec) -> list[int]:
        """The seeds that adapters of a spec are trained with."""
        return [spec.seed] if spec.adapter else training_seeds(self._seeds, spec.seed)

    def drops(self, profile: str) -> int:
        """How many drop thresholds a profile declares, whatever was selected for this run."""
        return declared_drops(self.root, profile)

    def lacking(self, spec: Spec) -> str:
        return lacking(spec, self.root, self.data, self.gpus)

    def require(self, spec: Spec) -> None:
        """Raise ResourceError where the machine has not the memory or disk that a spec needs."""
        for line, enough in resources(spec, self.store.home):
            if not enough:
                raise ResourceError(f"{spec.id}: {line}; free some, choose a smaller spec, or lower [requires]")

    def make(
        self, kind: str, identity: Mapping[str, Any], work: Callable[[Path], dict], *, again: bool = False
    ) -> Path:
        """The store's artifact, remembering what this run made itself."""
        worked = False

        def watched(folder: Path) -> dict:
            nonlocal worked
            worked = True
            return work(folder)

        folder = self.store.make(kind, identity, watched, again=again)
        if worked:
            self.made.add(folder)
        return folder

    def remember(self, identity: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """A small result that scikit-learn computes, as JSON in the store: its import takes longer than a cached run.

        Made again whenever a line of PRISM changes, which costs seconds and needs no list of what it depends on.
        """

        def work(folder: Path) -> dict:
            write_text(folder / "value.json", json.dumps(compute()))
            return {}

        made_by = {"source": own_source(), "versions": versions(["scikit-learn"])}
        folder = self.store.make("tables", {**identity, **made_by}, work)
        return json.loads((folder / "value.json").read_text(encoding="utf-8"))

    def say(self, sentence: str) -> None:
        """One line on the terminal, behind pytest's capture."""
        screen = _Screen(self.config)
        screen.start_line()
        screen.write(f"prism: {sentence}\n")

    @contextlib.contextmanager
    def progress(self, what: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        """Say what is being worked on: a bar on a terminal, one line elsewhere. Never through pytest's capture."""
        from tqdm import tqdm

        screen = _Screen(self.config)
        bar = total and sys.__stderr__ is not None and sys.__stderr__.isatty() and not self.worker
        began = time.perf_counter()
        screen.start_line()
        if bar:
            with tqdm(total=total, desc=what, file=screen, leave=False, mininterval=0.3, dynamic_ncols=True) as drawn:
                yield drawn.update
        else:
            yield lambda _: None
        screen.write(f"prism: {what}: {time.perf_counter() - began:.1f} s\n")

    @property
    def run_folder(self) -> Path:
        """Where this run's finished specs lie until the report is whole. Hidden: it is no report yet."""
        return self.reports / "runs" / f".{self.run_id}"

    def keep(self, result: Result, samples: Sequence[Mapping[str, Any]], scores: Reference) -> None:
        """Write a finished spec down at once, so that nothing waits for the end of the run."""
        from prism import reference

        name = f"{result.phase}-{result.spec}"
        try:
            lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
            write_text(self.run_folder / "samples" / f"{name}.jsonl", "".join(lines))
            reference.write(scores, self.run_folder / "scores" / f"{name}.json")
            write_text(self.run_folder / "results" / f"{name}.json", json.dumps(to_json(result)))
        except OSError as error:
            raise unwritable(self.reports, error, "--prism-report") from error

    def finish(self) -> Run | None:
        """Make the report of what was kept, move it into place whole, and point `latest` at it."""
        found = sorted(self.run_folder.glob("results/*.json"))
        if not found:
            return None
        from prism import report
        from prism.provenance import provenance

        results = tuple(self._reached(from_json(json.loads(path.read_text(encoding="utf-8")))) for path in found)
        partial = self._partial(results)
        verdict, reason = self._verdict()
        run = Run(
            id=self.run_id,
            results=results,
            complete=not partial,
            partial=partial,
            verdict=verdict,
            reason=reason,
            command="pytest " + shlex.join(self.config.invocation_params.args),
            provenance=provenance(self.root),
            title=self.config.getoption("--prism-report-title"),
        )
        samples = {}
        for result in results:
            path = self.run_folder / "samples" / f"{result.phase}-{result.spec}.jsonl"
            with path.open(encoding="utf-8") as lines:  # str.splitlines would also split at U+2028 in an answer
                samples[result.id] = list(map(json.loads, lines))
        report.write(self.run_folder, run, samples, self.store)
        shutil.rmtree(self.run_folder / "results")
        folder = self.reports / "runs" / self.run_id
        os.replace(self.run_folder, folder)
        point_latest(self.reports, folder)
        self.report_folder = folder
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            self._add_to_job_summary(Path(summary), (folder / "report.md").read_text(encoding="utf-8"))
        return run

    def _add_to_job_summary(self, path: Path, page: str) -> None:
        try:
            held = path.stat().st_size if path.exists() else 0
            if held + len(page.encode()) > JOB_SUMMARY:
                self.say(f"{path} holds {held:,} bytes, and GitHub shows none of a summary above 1 MiB: left as it is")
                return
            with path.open("a", encoding="utf-8") as file:
                file.write(page)
        except OSError as error:
            self.say(f"$GITHUB_STEP_SUMMARY {path}: {error.strerror}; the report itself is written")

    def _reached(self, result: Result) -> Result:
        """The result with verdicts on the thresholds that this run decided; those of the others are none."""
        known = self.states.get(result.id, {})
        records = [
            replace(
                record,
                verdicts=tuple(
                    verdict
                    if limit_id(record.tier, record.metric, verdict.key) in known
                    else replace(verdict, state="skipped", reason="not selected, or not reached, in this run")
                    for verdict in record.verdicts
                ),
            )
            for record in result.records
        ]
        return replace(result, records=tuple(records))

    def _partial(self, results: Sequence[Result]) -> str:
        if self.interrupted:
            return self.interrupted
        for result in results:
            declared = {
                limit.id for spec in self.specs(result.phase) if spec.id == result.id for limit in spec.limits()
            }
            left = declared - self.states.get(result.id, {}).keys()
            if left:
                return f"{len(left)} of {len(declared)} thresholds of {result.id} were not selected or not reached"
        return f"{words.count(len(self.broken), 'item')} failed beside the thresholds" if self.broken else ""

    def _verdict(self) -> tuple[Any, str]:
        states = [state for thresholds in self.states.values() for state in thresholds.values()]
        bad = [state for state in states if state not in ("holds", "skipped")]
        if self.broken:
            failed = words.count(len(self.broken), "item")
            return "fail", f"{failed} failed beside the thresholds, {self.broken[0]} the first"
        judged = any(name.startswith("tier3-") for thresholds in self.states.values() for name in thresholds)
        if "tier3" in self.required and not judged:
            return "fail", "tier 3 is required, and no selected spec has a threshold of it"
        if bad:
            does = "does" if len(bad) == 1 else "do"
            return "fail", f"{len(bad)} of {words.count(len(states), 'threshold')} {does} not hold"
        held = states.count("holds")
        if not held:
            return "fail", "no threshold was decided, and an empty set is never a pass"
        return "pass", "the one decided threshold holds" if held == 1 else f"all {held} decided thresholds hold"


class _Screen:
    """The terminal behind pytest's capture, as a file that tqdm can draw on."""

    def __init__(self, config: pytest.Config) -> None:
        self.capture = config.pluginmanager.getplugin("capturemanager")
        self.reporter = config.pluginmanager.getplugin("terminalreporter")

    def write(self, text: str) -> None:
        with self.capture.global_and_fixture_disabled() if self.capture else contextlib.nullcontext():
            if sys.__stderr__ is not None:
                sys.__stderr__.write(text)
                sys.__stderr__.flush()

    def flush(self) -> None:
        pass

    def start_line(self) -> None:
        """Leave the line that pytest writes its dots on."""
        if self.reporter:
            with self.capture.global_and_fixture_disabled() if self.capture else contextlib.nullcontext():
                self.reporter.ensure_newline()


def new_run_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid():x}"


def point_latest(reports: Path, folder: Path) -> None:
    """Make reports/latest mean this run: a link that is replaced in one step."""
    link, latest = reports / f".latest-{os.getpid()}", reports / "latest"
    if latest.is_dir() and not latest.is_symlink():
        raise StoreError(f"{latest}: is a folder where PRISM keeps a link; move it away. This run lies in {folder}")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.relative_to(reports), target_is_directory=True)
    os.replace(link, latest)


def _judge(text: str | None, budget: str | None) -> tuple[Choice, Spending] | None:
    """The judge that was asked for, and the one account of what it costs; None where none was."""
    try:
        choice, most = choose(text), Budget.parse(budget) if budget else None
        return (choice, Spending(choice.price, most)) if choice else None
    except PrismError as error:
        raise pytest.UsageError(str(error)) from None
