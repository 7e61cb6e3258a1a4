"""The hooks of the pytest plugin: options, one item per threshold, the report at the end of the run.

The hooks delegate to one `Session`.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from prism.devices import cuda_memory
from prism.errors import PrismError
from prism.models.identity import ENGINES
from prism.plugin import workers
from prism.plugin.redacting import Redacting
from prism.plugin.results import decided_verdicts
from prism.plugin.scheduling import training_seeds
from prism.plugin.session import Session
from prism.spec import PROFILES, Limit, Spec
from prism.store import unwritable
from prism.verdicts.record import Run


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("prism", "PRISM benchmarks")
    add = group.addoption
    add("--prism-profile", choices=PROFILES, help="nano: embedded, CPU; small: 135 M; full: GPU")
    add("--prism-spec", action="append", default=[], metavar="NAME", help="run this spec only (repeatable)")
    add("--prism-models", metavar="DIR", help="load DIR/<last part of model_name> instead of a model from the hub")
    add("--prism-data", metavar="DIR", help="read DIR/<[data].name>/<split>.jsonl.gz instead of [data].path")
    add("--prism-home", metavar="DIR", help="the store of adapters and answers (default: $PRISM_HOME, ~/.cache/prism)")
    add("--prism-report", metavar="DIR", default="reports", help="write runs/ and latest/ to this folder")
    add("--prism-report-title", metavar="TITLE", default="PRISM", help="title of the reports, to tell several apart")
    add("--prism-engine", choices=ENGINES, help="plain: train without the captured step (or PRISM_ENGINE)")
    add("--prism-retrain", action="store_true", help="train again even if the store has the adapter")
    alarms = "5 %% false alarms of drop in a run, or over all runs against one accepted run"
    add("--prism-alarms", choices=["run", "reference"], default="run", help=alarms)
    add(
        "--prism-seeds",
        type=_seeds,
        default="1",
        metavar="SEEDS",
        help="train and measure several adapters per spec: a count (5), a range (47-51) or a list (42,47)",
    )
    add(
        "--prism-judge",
        metavar="JUDGE",
        help="openai:MODEL, http://HOST:PORT/v1#MODEL or local:FOLDER (or PRISM_JUDGE)",
    )
    add("--prism-judge-budget", metavar="N", help='stop judging at this cost: "2.50" dollars or "200k tokens"')
    add(
        "--prism-require",
        action="append",
        default=[],
        choices=["tier3", "decided"],
        help="fail if tier3 cannot be decided, or if any threshold is inconclusive (decided)",
    )


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
    session = Session(config)
    config.stash[Session.key] = session
    for mark in session.marks:
        config.addinivalue_line("markers", f"{mark}: a benchmark of {mark}")
    for mark, meaning in {
        "tier1": "accuracy and F1",
        "tier2": "overlap and keyword coverage",
        "tier3": "a language model as judge",
        "cost": "time and memory",
        "nano": "embedded models, CPU",
        "small": "a published model of 135 M parameters, GPU or patience",
        "full": "published models, GPU",
    }.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")
    for option, given in {"--prism-data": session.setting.data, "--prism-models": session.setting.models}.items():
        if given and not given.is_dir():
            raise pytest.UsageError(f"{option} {given}: no such folder")
    config.pluginmanager.register(Redacting(), "prism-redacting")
    config.pluginmanager.register(_Watcher(session), "prism-watcher")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Xdist(session), "prism-xdist")


class _Watcher:
    """Collects the items that failed without a verdict, from the test reports."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        self.session.has_spec_items |= "spec" in properties
        has_verdict = report.when == "call" and "state" in properties
        # Checks of phase 0, errors, dead workers.
        if report.failed and not has_verdict and report.nodeid.startswith("benchmarks/"):
            self.session.broken.append(report.nodeid)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if excinfo.type is KeyboardInterrupt:  # pytest raises subclasses for its own early exits
            self.session.interrupted = "the run was interrupted"


class _Xdist:
    """Passes each worker the run id and its GPU, and keeps the items of a spec on one worker."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.pins = workers.Pins() if not session.worker else None

    def pytest_configure_node(self, node: Any) -> None:
        assert self.pins is not None
        node.workerinput["prism_run_id"] = self.session.run_id
        node.workerinput["prism_gpu"] = self.pins.take(node.gateway.id)
        node.workerinput["prism_gpus"] = cuda_memory()

    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        assert self.pins is not None
        self.pins.give_back(node.gateway.id)

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        if config.getoption("dist") not in ("load", "no"):
            return None  # the user chose another scheduler
        names = [spec.name for spec in self.session.all_specs()]
        return workers.scheduler(config, log, lambda nodeid: workers.scope(nodeid, names))


def pytest_report_header(config: pytest.Config) -> str:
    session = config.stash[Session.key]
    line = f"prism: profile {session.profile} ({session.why}); store {session.setting.store.home}"
    gpus = sorted({name for name, _ in cuda_memory()})
    if len(gpus) > 1:
        line += f"; the GPUs differ ({', '.join(gpus)}): set CUDA_VISIBLE_DEVICES to one kind to compare costs"
    return line


@pytest.hookimpl(tryfirst=True)  # before xdist, whose controller starts its workers in this hook
def pytest_collection(session: pytest.Session) -> None:
    """Read every spec that the command line can reach, to report mistakes before anything runs."""
    state = session.config.stash[Session.key]
    root = state.setting.root
    for argument in session.config.args:
        path = (session.config.invocation_params.dir / argument.split("::")[0]).resolve()
        if path == root or path.is_relative_to(root / "benchmarks"):
            try:
                specs = state.all_specs()
            except PrismError as error:
                raise pytest.UsageError(str(error)) from None
            _check_chosen(state, specs)
            if not (state.worker or session.config.option.collectonly):
                _check_writable(state.reports)
            return


def _check_writable(folder: Path) -> None:
    """Check before hours of training that the report can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise pytest.UsageError(str(unwritable(folder, error, "--prism-report"))) from None


def _check_chosen(state: Session, specs: Sequence[Spec]) -> None:
    for name in state.chosen:
        matching = [spec for spec in specs if name in (spec.name, spec.id)]
        if not matching:
            raise pytest.UsageError(f"--prism-spec {name}: no such spec; `prism specs` lists those that exist")
        for spec in matching:
            if lacking := state.lacking(spec):
                raise pytest.UsageError(f"--prism-spec {name}: {lacking}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test that uses `spec` by the specs of its phase, and by thresholds if it uses `threshold`.

    `planned_spec` is every spec of any phase that the profile would run on this machine.
    """
    state = metafunc.config.stash[Session.key]
    if "planned_spec" in metafunc.fixturenames:
        planned = [spec for spec in state.all_specs() if not state.lacking(spec)]
        metafunc.parametrize("planned_spec", planned, ids=lambda spec: spec.id.replace("/", "-"))
    if "spec" not in metafunc.fixturenames:
        return
    phase = next((mark.name for mark in metafunc.definition.iter_markers() if mark.name in state.phases), None)
    if phase is None:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: uses `spec` without a phase mark; add pytestmark = pytest.mark.PHASE, "
            f"where PHASE is a folder of benchmarks/specs ({', '.join(state.phases) or 'there is none'})"
        )
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
        if not spec.gate:  # measure it anyway, to propose thresholds
            parameters.append(pytest.param(spec, None, id=f"{spec.name}-measured", marks=marks))
    names = "spec, threshold" if "threshold" in metafunc.fixturenames else "spec"
    metafunc.parametrize(names, parameters, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group items by spec, so that each model is loaded once, and remove tests without a spec."""
    items[:] = [item for item in items if not _has_empty_parameters(item)]
    order: dict[tuple[Path, str], int] = {}

    def place(item: pytest.Item) -> int:
        spec = _parameter(item, "spec")
        return order.setdefault((item.path, spec.id if spec else ""), len(order))

    items.sort(key=place)
    for item in items:
        if "threshold" in getattr(item, "fixturenames", ()) and (spec := _parameter(item, "spec")):
            limit = _parameter(item, "threshold")  # None if the spec has no gate and is only measured
            item.user_properties += [("spec", spec.id), *([("threshold", limit.id)] if limit else [])]


def _has_empty_parameters(item: pytest.Item) -> bool:
    """Whether pytest generated the item from an empty list of specs."""
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
        lines.append(f"prism: {names}" + (f"; about {minutes:g} min if nothing is cached" if minutes else ""))
    lines += [f"prism: skipped {spec.id}: {why}" for spec in specs.values() if (why := state.lacking(spec))]
    return lines


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, Any, Any]:
    limit, run = _parameter(item, "threshold"), getattr(item, "funcargs", {}).get("run")
    if call.when == "call" and limit and run:
        record, verdict = run.verdicts[limit.id]
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
        sentence = error if isinstance(error, PrismError) else unwritable(state.reports, error, "--prism-report")
        state.config.stash[_ERROR] = f"no report was written: {sentence}"
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    run = state.config.stash[_RUN]
    decided = any(verdict.state != "skipped" for verdict in decided_verdicts(run.results if run else ()))
    if run is not None and run.verdict == "fail" and session.exitstatus == pytest.ExitCode.OK and decided:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if state.broken and run is None:
        latest = state.reports / "latest"
        older = f"; {_short(latest)} is older" if latest.exists() else ""
        unreported = f"no report was written, because no spec was fully measured{older}"
        state.config.stash.setdefault(_ERROR, unreported)
    if state.has_spec_items and not decided and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        state.config.stash[_ERROR] = "no threshold was decided: all were skipped, which is not a pass"


_RUN = pytest.StashKey[Run | None]()
_ERROR = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    state = config.stash[Session.key]
    run = config.stash.get(_RUN, None)
    error = config.stash.get(_ERROR, "")
    if run is not None:
        from prism.report.terminal import lines

        terminalreporter.section("prism")
        for line in lines(run):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"report: {_short(state.reports / 'latest')}/report.md, report.html")
    if error:
        terminalreporter.write_line(f"prism: {error}", red=True)
    if state.interrupted:
        terminalreporter.write_line(
            f"prism: {state.interrupted}; the next run reuses the finished work in {state.setting.store.home}"
        )


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
