"""The hooks of the pytest plugin: one item per threshold, what is told of each. Naming it loads all of it.

The hooks delegate to one `Session`.
"""

from __future__ import annotations

import gc
import math
import signal
import tempfile
import traceback
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from prism.devices import cuda_memory
from prism.errors import PrismError
from prism.models import identity
from prism.plugin import ending, remembering, workers
from prism.plugin.redacting import Redacting
from prism.plugin.session import Session
from prism.spec import Limit, Spec
from prism.store import unwritable
from prism.untrusted import terminal_safe

pytest_plugins = ["prism.plugin.options", "prism.plugin.fixtures"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return workers.automatic()


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Ctrl-C has exit code 2 at any time. SIGTERM, which ends a cancelled CI job, is a Ctrl-C."""
    ours = not hasattr(config, "workerinput") and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return (yield)
    except KeyboardInterrupt:  # as the last lines were printed: pytest catches it until then
        return pytest.ExitCode.INTERRUPTED
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
        remembering.MARK: "a check that is not made again where it passed and nothing has changed",
    }.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")
    if session.cluster and config.getoption("tx", None):
        raise pytest.UsageError("--prism-cluster with -n: the cluster runs tasks side by side already; leave one out")
    for option, given in {"--prism-data": session.setting.data, "--prism-models": session.setting.models}.items():
        if given and not given.is_dir():
            raise pytest.UsageError(f"{option} {given}: no such folder")
    config.pluginmanager.register(Redacting(), "prism-redacting")
    config.pluginmanager.register(_Watcher(session), "prism-watcher")
    config.pluginmanager.register(ending, "prism-ending")
    config.pluginmanager.register(remembering, "prism-remembering")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Xdist(session), "prism-xdist")
    gc.freeze()  # what imports made lives to the end; each collection, pytest's last ones too, would walk through it


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
    line = f"prism: profile {session.profile} ({session.why}); store {session.setting.store.name}"
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
                state.look_at_cluster()
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
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
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
    """Group items by spec, so that each model is loaded once, and remove tests without a spec.

    Otherwise they run in the order in which they are written: what takes no spec comes behind what is above it.
    """
    files = {path: n for n, path in enumerate(dict.fromkeys(item.path for item in items))}
    written = sorted(items, key=lambda item: (files[item.path], item.location[1] or 0))
    groups: dict[tuple[Path, str], list[pytest.Item]] = {}
    group = Path(), ""
    for item in written:
        if _has_empty_parameters(item):
            continue
        if (spec := _parameter(item, "spec")) or item.path != group[0]:
            group = item.path, spec.id if spec else ""
        groups.setdefault(group, []).append(item)
    items[:] = [item for found in groups.values() for item in found]
    for item in items:
        if "threshold" in getattr(item, "fixturenames", ()) and (spec := _parameter(item, "spec")):
            limit = _parameter(item, "threshold")  # None if the spec has no gate and is only measured
            item.user_properties += [("spec", spec.id), *([("threshold", limit.id)] if limit else [])]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Know what the selected items will ask for; on a cluster, start it."""
    state = session.config.stash[Session.key]
    measured = {spec.id: spec for item in session.items for spec in _measured(item)}
    specs = [spec for spec in measured.values() if not state.lacking(spec)]
    identity.expect(specs)
    if state.cluster is None or session.config.option.collectonly or session.testsfailed:
        return
    try:
        state.begin(specs)
    except PrismError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_unconfigure(config: pytest.Config) -> None:
    if (state := config.stash.get(Session.key, None)) and state.cluster:
        state.cluster.stop()
    gc.freeze()  # what is left is used no more, and pytest ends with two collections of all of it


def _measured(item: pytest.Item) -> list[Spec]:
    """The specs that an item measures: its own if it uses `experiment`, and those that a portfolio's items name."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    used = {"spec"} if "experiment" in getattr(item, "fixturenames", ()) else set()
    names = (parameters.keys() - {"spec", "planned_spec"}) | used
    return [spec for name in names if isinstance(spec := parameters.get(name), Spec)]


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
        expected = {spec.id: (spec.requires.minutes or 0) * len(state.seeds(spec)) for spec in running}
        state.screen.expect(expected)
        minutes = sum(expected.values())
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
            from prism.report.words import since_accepted

            loss = record.reference["loss"]
            accepted, _ = since_accepted(record, record.reference)
            item.user_properties += [("reference", round(accepted, 6))] if accepted is not None else []
            item.user_properties += [
                ("loss_ci", "[{:.6f}, {:.6f}]".format(*loss["ci"])),
                ("loss_p", f"{loss['p']:.3g}"),
            ]
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, PrismError):
        report.longrepr = f"{type(call.excinfo.value).__name__}: {call.excinfo.value}"
    _disarm(report)
    if call.excinfo is not None and not item.config.getoption("usepdb", False):
        _clear(call.excinfo.tb)
    return report


def _clear(tb: TracebackType) -> None:
    """Free what the frames of an error hold. The interpreter keeps the last one: a model on the GPU, while others load."""
    traceback.clear_frames(tb)
    for frame, _ in traceback.walk_tb(tb):
        _ = frame.f_locals  # the copy that a report was made of, which Python 3.13 no longer keeps, is renewed


def _disarm(report: pytest.TestReport) -> None:
    """Escape what commands a terminal, or a CI job's log, in the texts that pytest shows of an item."""
    if isinstance(report.longrepr, tuple):  # of a skipped item
        path, line, reason = report.longrepr
        report.longrepr = path, line, terminal_safe(reason)
    elif (shown := terminal_safe(report.longreprtext)) != report.longreprtext.expandtabs(1):
        report.longrepr = shown  # loses the colours of a traceback
    report.sections = [(title, terminal_safe(text)) for title, text in report.sections]
