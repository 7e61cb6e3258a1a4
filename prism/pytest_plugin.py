"""The pytest plugin: options, one item a threshold, and a run's results on their way to the report.

Hooks delegate to one `Session`. It is created in every process; under xdist the workers write each finished spec to the
run's folder, tell the controller each verdict in the test report's properties, and the controller writes the report.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prism import workers
from prism.errors import PrismError, ResourceError, StoreError
from prism.identity import cuda_memory, own_source, versions
from prism.judge.asking import Choice, choose
from prism.judge.spending import Budget, Spending
from prism.record import Result, Run, from_json, to_json
from prism.scheduling import choose_profile, lacking, resources, training_seeds
from prism.spec import PROFILES, Limit, Spec, declared_drops, find_specs, load_spec
from prism.store import Store, unwritable, write_text

if TYPE_CHECKING:
    from prism.reference import Reference

JOB_SUMMARY = 2**20  # bytes: GitHub shows a step's summary whole or, above this, not at all
PHASES = [f"phase{n}" for n in range(8)]


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
        self.store = Store(Path(home).expanduser().resolve())
        self.reports = (self.root / Path(option("--prism-report")).expanduser()).resolve()
        self.retrain: bool = option("--prism-retrain")
        self._seeds: str = option("--prism-seeds")
        self.required: list[str] = option("--prism-require")
        self.judge = _judge(option("--prism-judge"), option("--prism-judge-budget"))
        self.profile, self.why = choose_profile(option("--prism-profile"))
        self.chosen: list[str] = option("--prism-spec")
        self.run_id = getattr(config, "workerinput", {}).get("prism_run_id") or new_run_id()
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
        return lacking(spec, self.root, self.data)

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
            raise StoreError(str(unwritable(self.reports, error)).replace("--prism-home", "--prism-report")) from error

    def finish(self) -> Run | None:
        """Make the report of what was kept, move it into place whole, and point `latest` at it."""
        found = sorted(self.run_folder.glob("results/*.json"))
        if not found:
            return None
        from prism import report
        from prism.provenance import provenance

        results = tuple(from_json(json.loads(path.read_text(encoding="utf-8"))) for path in found)
        partial = self._partial(results)
        verdict, reason = self._verdict(results)
        run = Run(
            id=self.run_id,
            results=results,
            complete=not partial,
            partial=partial,
            verdict=verdict,
            reason=reason,
            command="pytest " + " ".join(self.config.invocation_params.args),
            provenance=provenance(self.root),
            title=self.config.getoption("--prism-report-title"),
        )
        samples = {}
        for result in results:
            path = self.run_folder / "samples" / f"{result.phase}-{result.spec}.jsonl"
            samples[result.id] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
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
        return f"{_items(self.broken)} ended in an error" if self.broken else ""

    def _verdict(self, results: Sequence[Result]) -> tuple[Any, str]:
        states = [state for thresholds in self.states.values() for state in thresholds.values()]
        bad = [state for state in states if state not in ("holds", "skipped")]
        if self.broken:
            return "fail", f"{_items(self.broken)} ended in an error, {self.broken[0]} the first"
        if bad:
            return "fail", f"{len(bad)} of {len(states)} thresholds do not hold"
        held = states.count("holds")
        if not held:
            return "fail", "no threshold was decided, and an empty set is never a pass"
        return "pass", f"all {held} decided thresholds hold"


def _items(names: Sequence[str]) -> str:
    return "1 item" if len(names) == 1 else f"{len(names)} items"


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
    link = reports / f".latest-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.relative_to(reports), target_is_directory=True)
    latest = reports / "latest"
    if latest.is_dir() and not latest.is_symlink():
        raise StoreError(f"{latest}: is a folder where PRISM keeps a link; move it away")
    os.replace(link, latest)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("prism", "PRISM benchmarks")
    add = group.addoption
    add("--prism-profile", choices=PROFILES, help="nano: embedded, CPU; full: the published models, GPU")
    add("--prism-spec", action="append", default=[], metavar="NAME", help="run this spec only (repeatable)")
    add("--prism-data", metavar="DIR", help="read DIR/<[data].name>/<split>.jsonl.gz in place of [data].path")
    add("--prism-home", metavar="DIR", help="the store of adapters and answers (default: $PRISM_HOME, ~/.cache/prism)")
    add("--prism-report", metavar="DIR", default="reports", help="where runs/ and latest/ are written")
    add("--prism-report-title", metavar="TITLE", default="PRISM", help="heads the reports: tells one of several apart")
    add("--prism-retrain", action="store_true", help="train again what the store already holds")
    add(
        "--prism-seeds",
        type=_seeds,
        default="1",
        metavar="SEEDS",
        help="train and measure several adapters a spec: how many (5), or which (47-51, or 42,47)",
    )
    add(
        "--prism-judge",
        metavar="JUDGE",
        help="openai:MODEL, http://HOST:PORT/v1#MODEL or local:FOLDER (or PRISM_JUDGE)",
    )
    add("--prism-judge-budget", metavar="N", help='stop judging there: "2.50" dollars or "200k tokens"')
    add(
        "--prism-require",
        action="append",
        default=[],
        choices=["tier3"],
        help="what cannot be decided fails, not skips",
    )


def _judge(text: str | None, budget: str | None) -> tuple[Choice, Spending] | None:
    """The judge that was asked for, and the one account of what it costs; None where none was."""
    try:
        choice = choose(text)
        return (choice, Spending(choice.price, Budget.parse(budget) if budget else None)) if choice else None
    except PrismError as error:
        raise pytest.UsageError(str(error)) from None


def _seeds(text: str) -> str:
    try:
        training_seeds(text, 0)
    except PrismError as error:
        raise pytest.UsageError(str(error)) from None
    return text


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return workers.automatic()


def pytest_configure(config: pytest.Config) -> None:
    workers.pin(config)
    for phase in PHASES:
        config.addinivalue_line("markers", f"{phase}: a benchmark of {phase}")
    for mark, meaning in {
        "tier1": "accuracy and F1",
        "tier2": "overlap and keyword coverage",
        "tier3": "a language model as judge",
        "cost": "time and memory",
        "nano": "embedded models, CPU",
        "full": "published models, GPU",
    }.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")
    session = Session(config)
    config.stash[Session.key] = session
    if session.data and not session.data.is_dir():
        raise pytest.UsageError(f"--prism-data {session.data}: no such folder")
    config.pluginmanager.register(_Watcher(session), "prism-watcher")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Xdist(session), "prism-xdist")


class _Watcher:
    """Learns each verdict from the test reports, which under xdist are all that reaches the controller."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = dict(report.user_properties)
        if report.when not in ("setup", "call", "teardown"):  # xdist's report of an item that took its worker down
            self.session.broken.append(report.nodeid)
        if "spec" not in known:
            return
        self.session.asked = True
        if report.when == "call" and "state" in known:
            self.session.states.setdefault(str(known["spec"]), {})[str(known["threshold"])] = str(known["state"])
        elif report.failed:
            self.session.broken.append(report.nodeid)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if excinfo.type is KeyboardInterrupt:  # pytest's own early ends are subclasses
            self.session.interrupted = "the run was interrupted"


class _Xdist:
    """Tells each worker which run it works for and which GPU is its own, and keeps a spec's items on one worker."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.pins = workers.Pins() if not session.worker else None

    def pytest_configure_node(self, node: Any) -> None:
        assert self.pins is not None
        node.workerinput["prism_run_id"] = self.session.run_id
        node.workerinput["prism_gpu"] = self.pins.take(node.gateway.id)

    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        assert self.pins is not None
        self.pins.give_back(node.gateway.id)

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        if config.getoption("dist") not in ("load", "no"):
            return None  # asked for by name
        names = [spec.name for phase in PHASES for spec in self.session.specs(phase)]
        return workers.scheduler(config, log, lambda nodeid: workers.scope(nodeid, names))


def pytest_report_header(config: pytest.Config) -> str:
    session = config.stash[Session.key]
    line = f"prism: profile {session.profile} ({session.why}); store {session.store.home}"
    gpus = sorted({name for name, _ in cuda_memory()})
    if len(gpus) > 1:
        line += f"; the GPUs differ ({', '.join(gpus)}): times and costs compare on one kind only, name it in CUDA_VISIBLE_DEVICES"
    return line


def pytest_collection(session: pytest.Session) -> None:
    """Read every spec that the command line can reach, so that a mistake in one is said before anything runs."""
    state = session.config.stash[Session.key]
    benchmarks = state.root / "benchmarks"
    for argument in session.config.args:
        path = (session.config.invocation_params.dir / argument.split("::")[0]).resolve()
        if path == state.root or path.is_relative_to(benchmarks):
            try:
                specs = [spec for phase in PHASES for spec in state.specs(phase)]
            except PrismError as error:
                raise pytest.UsageError(str(error)) from None
            _check_chosen(state, specs)
            return


def _check_chosen(state: Session, specs: Sequence[Spec]) -> None:
    for name in state.chosen:
        matching = [spec for spec in specs if name in (spec.name, spec.id)]
        if not matching:
            raise pytest.UsageError(f"--prism-spec {name}: no such spec; `prism specs` lists those that exist")
        for spec in matching:
            if lacking := state.lacking(spec):
                raise pytest.UsageError(f"--prism-spec {name}: {lacking}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `spec` is made once a spec of its phase; `threshold` makes one a threshold.

    `planned_spec` stands for every spec, of any phase, that the profile would run on this machine.
    """
    state = metafunc.config.stash[Session.key]
    if "planned_spec" in metafunc.fixturenames:
        planned = [spec for phase in PHASES for spec in state.specs(phase) if not state.lacking(spec)]
        metafunc.parametrize("planned_spec", planned, ids=lambda spec: spec.id.replace("/", "-"))
    if "spec" not in metafunc.fixturenames:
        return
    phase = next((mark.name for mark in metafunc.definition.iter_markers() if mark.name in PHASES), None)
    if phase is None:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: asks for a spec but bears no phase mark")
    parameters = []
    for spec in state.specs(phase):
        lacking = state.lacking(spec)
        marks = [getattr(pytest.mark, spec.profile)]
        marks += [pytest.mark.skip(reason=f"{spec.id}: {lacking}")] if lacking else []
        if "threshold" not in metafunc.fixturenames:
            parameters.append(pytest.param(spec, id=spec.name, marks=marks))
            continue
        for limit in spec.limits():
            tier = getattr(pytest.mark, limit.tier)
            parameters.append(pytest.param(spec, limit, id=f"{spec.name}-{limit.id}", marks=[*marks, tier]))
        if not spec.gate:  # measured all the same: that is where thresholds come from
            parameters.append(pytest.param(spec, None, id=f"{spec.name}-measured", marks=marks))
    names = "spec, threshold" if "threshold" in metafunc.fixturenames else "spec"
    metafunc.parametrize(names, parameters, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the items of a spec together, so that its model is loaded once; drop tests that no spec is chosen for."""
    items[:] = [item for item in items if not _names_no_spec(item)]
    order: dict[tuple[Path, str], int] = {}

    def place(item: pytest.Item) -> int:
        spec = _parameter(item, "spec")
        return order.setdefault((item.path, spec.id if spec else ""), len(order))

    items.sort(key=place)
    for item in items:
        if "threshold" in getattr(item, "fixturenames", ()) and (spec := _parameter(item, "spec")):
            limit = _parameter(item, "threshold")  # none where the spec has no gate and is only measured
            item.user_properties += [("spec", spec.id), *([("threshold", limit.id)] if limit else [])]


def _names_no_spec(item: pytest.Item) -> bool:
    """Whether pytest made the item for an empty list of specs."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return any(name in parameters and _parameter(item, name) is None for name in ("spec", "planned_spec"))


def _parameter(item: pytest.Item, name: str) -> Any:
    value = item.callspec.params.get(name) if hasattr(item, "callspec") else None
    return value if isinstance(value, (Spec, Limit)) else None


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    state = config.stash[Session.key]
    specs = {spec.id: spec for spec in (_parameter(item, "spec") for item in items) if spec}
    lines = []
    running = [spec for spec in specs.values() if not state.lacking(spec)]
    if running:
        minutes = sum((spec.requires.minutes or 0) * len(state.seeds(spec)) for spec in running)
        names = ", ".join(spec.id for spec in running)
        lines.append(f"prism: {names}" + (f"; about {minutes:g} min where nothing is cached" if minutes else ""))
    lines += [f"prism: skipped {spec.id}: {why}" for spec in specs.values() if (why := state.lacking(spec))]
    return lines


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, Any, Any]:
    limit, run = _parameter(item, "threshold"), getattr(item, "funcargs", {}).get("run")
    if call.when == "call" and limit and run:
        record, verdict = run.record(limit), run.verdict(limit)
        measured = {
            "baseline": record.baseline.value,
            "tuned": record.tuned.value,
            "gain": record.gain.value,
            "gain_low": record.gain.ci[0],
            "gain_high": record.gain.ci[1],
            "p": verdict.p,
        }
        item.user_properties += [("metric", record.metric), ("state", verdict.state), ("n", record.n)]
        item.user_properties += [
            (name, round(value, 6)) for name, value in measured.items() if value is not None and math.isfinite(value)
        ]
        if record.reference:
            loss = record.reference["loss"]
            item.user_properties += [
                ("reference", round(record.reference["value"], 6)),
                ("loss_ci", "[{:.6f}, {:.6f}]".format(*loss["ci"])),
                ("loss_p", f"{loss['p']:.3g}"),
            ]
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, PrismError):
        report.longrepr = f"{type(call.excinfo.value).__name__}: {call.excinfo.value}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    state = session.config.stash[Session.key]
    if state.worker or session.config.option.collectonly:
        return
    state.config.stash[_RUN] = None
    try:
        state.config.stash[_RUN] = state.finish()
    except (PrismError, OSError) as error:
        sentence = error if isinstance(error, PrismError) else unwritable(state.reports, error)
        state.config.stash[_ERROR] = f"no report was written: {sentence}".replace("--prism-home", "--prism-report")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    decided = [s for states in state.states.values() for s in states.values() if s != "skipped"]
    if state.asked and not decided and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        state.config.stash[_ERROR] = "no threshold was decided: every one was skipped, and an empty set is never a pass"


_RUN = pytest.StashKey[Run | None]()
_ERROR = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    state = config.stash[Session.key]
    run = config.stash.get(_RUN, None)
    error = config.stash.get(_ERROR, "")
    if run is not None and state.report_folder is not None:
        from prism.report.terminal import lines

        terminalreporter.section("prism")
        for line in lines(run):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"report: {_short(state.reports / 'latest')}/report.md, report.html")
    if error:
        terminalreporter.write_line(f"prism: {error}", red=True)
    if state.interrupted:
        terminalreporter.write_line(
            f"prism: {state.interrupted}; what was finished is kept in {state.store.home}, and the next run goes on there"
        )


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
