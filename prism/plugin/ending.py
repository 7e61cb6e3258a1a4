"""The end of a run: the report, the exit code and the summary; also if it is interrupted or the disk is full."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from prism.errors import PrismError
from prism.plugin.results import decided_verdicts
from prism.plugin.session import Session
from prism.store import unwritable
from prism.untrusted import terminal_safe
from prism.verdicts.record import Run

_RUN = pytest.StashKey[Run | None]()
_ERRORS = pytest.StashKey[list[str]]()


@pytest.hookimpl(wrapper=True, trylast=True)  # the innermost wrapper: pytest's own prints the summary
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, Any, Any]:
    """Write the report after the other plugins' files, and also if one of them cannot be written."""
    state = session.config.stash[Session.key]
    if state.worker or session.config.option.collectonly:
        return (yield)
    errors = session.config.stash.setdefault(_ERRORS, [])
    result = None
    try:
        try:
            result = yield
        except OSError as error:
            errors.append(_not_written(session, error))
        except KeyboardInterrupt:
            _remove_junit(session.config)
            raise
        run = session.config.stash[_RUN] = _finish(state, session, errors)
    except KeyboardInterrupt:
        state.results.discard()
        state.interrupted = "the run was interrupted as its report was written"
        session.exitstatus = pytest.ExitCode.INTERRUPTED
        return result
    decided = any(verdict.state != "skipped" for verdict in decided_verdicts(run.results if run else ()))
    if run is not None and run.verdict == "fail" and session.exitstatus == pytest.ExitCode.OK and decided:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if state.broken and run is None and not errors:
        errors.append(f"no report was written, because no spec was fully measured{_older(state)}")
    if state.has_spec_items and not decided and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        if run is None or run.verdict != "measured":  # the headline says it
            errors.append("no threshold was decided: all were skipped, which is not a pass")
    return result


def _finish(state: Session, session: pytest.Session, errors: list[str]) -> Run | None:
    try:
        return state.finish()
    except (PrismError, OSError) as error:
        sentence = error if isinstance(error, PrismError) else unwritable(state.reports, error, "--prism-report")
        errors.append(f"no report was written: {sentence}")
        _fail(session)
        return None


def _not_written(session: pytest.Session, error: OSError) -> str:
    """What to say of a file of another plugin, most likely JUnit XML."""
    _fail(session)
    junit = _remove_junit(session.config)
    if not junit:
        return f"a plugin's file was not written: {error}"
    return f"no JUnit XML was written: {unwritable(junit.parent, error, '--junitxml')}"


def _remove_junit(config: pytest.Config) -> Path | None:
    """Remove the file of --junitxml, which may be half written; return its path."""
    given = getattr(config.option, "xmlpath", None)
    if not given:
        return None
    path = config.invocation_params.dir / Path(given).expanduser()
    if path.is_file():  # and no /dev/stdout
        with contextlib.suppress(OSError):
            path.unlink()
    return path


def _fail(session: pytest.Session) -> None:
    """Let a run that would pass fail; an interrupted one keeps its exit code."""
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    state = config.stash[Session.key]
    run = config.stash.get(_RUN, None)
    if run is not None:
        from prism.report.terminal import lines, width

        terminalreporter.section("prism")
        for line in lines(run, width()):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"report: {_short(state.reports / 'latest')}/report.md, report.html")
    for error in config.stash.get(_ERRORS, []):
        terminalreporter.write_line(f"prism: {terminal_safe(error)}", red=True)
    if state.interrupted:
        written = run or state.results.published.is_dir()
        unreported = "" if written else f"; no report was written{_older(state)}"
        kept = f"the next run reuses the finished work in {state.setting.store.name}"
        terminalreporter.write_line(f"prism: {state.interrupted}{unreported}; {kept}")


def _older(state: Session) -> str:
    latest = state.reports / "latest"
    return f"; {_short(latest)} is older" if latest.exists() else ""


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
