"""The results of a pytest run: stored after each spec, combined into the report at the end.

Under xdist each worker writes its specs to the run's folder, and the controller combines them into the report.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from prism.errors import StoreError
from prism.experiment import Outcome
from prism.report import words
from prism.rows.answers import read_json_lines
from prism.store import Store, sync, unwritable, write_text
from prism.store.seal import seal
from prism.verdicts.contenders import passing
from prism.verdicts.record import Decision, Result, Run, Verdict, from_json, to_json
from prism.verdicts.scores import write_scores

OPTION = "--prism-report"
MACHINE = platform.node().partition(".")[0]  # whose process ids are meant, where machines share a folder


class Results:
    """The results of one run under `reports`. Each process writes under its own `writer` name."""

    def __init__(self, reports: Path, run_id: str, writer: str) -> None:
        self.reports, self.run_id, self.writer = reports, run_id, writer
        self.saved: dict[str, Result] = {}

    @property
    def folder(self) -> Path:
        """The folder of measured specs until the report is complete; hidden, because it is not a report yet."""
        return self.reports / "runs" / f".{self.run_id}@{MACHINE}"

    @property
    def published(self) -> Path:
        """The folder of the whole report."""
        return self.reports / "runs" / self.run_id

    def save(self, outcome: Outcome) -> None:
        """Write a measured spec to disk at once, not at the end of the run."""
        result = outcome.result
        name = f"{result.phase}-{result.spec}"
        with self._writing():
            lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in outcome.samples)
            write_text(self.folder / "samples" / f"{name}.jsonl", "".join(lines))
            write_scores(outcome.scores, self.folder / "scores" / f"{name}.json")
        self._write(result)

    def mark_decided(self, result: Result, threshold: str) -> None:
        """Record that a threshold of a saved result was selected and reached, in a file that is small beside the result's."""
        saved = self.saved[result.id]
        self.saved[result.id] = marked = replace(saved, decided=(*saved.decided, threshold))
        with self._writing():
            self._note(result, "decided", {"id": marked.id, "decided": marked.decided})

    def add_details(self, result: Result, key: str, details: Any) -> None:
        """Add what the reports show of a saved result: plain JSON types, under a key of `Result.details`."""
        saved = self.saved[result.id]
        self._write(replace(saved, details={**saved.details, key: details}))

    def _write(self, result: Result) -> None:
        self.saved[result.id] = result
        with self._writing():
            self._note(result, "json", to_json(result))

    def _note(self, result: Result, suffix: str, content: dict[str, Any]) -> None:
        """A file that `gather` reads and `publish` deletes: what a power cut leaves of this folder is no report."""
        file = self.folder / "results" / f"{result.phase}-{result.spec}.{self.writer}.{suffix}"
        write_text(file, json.dumps(content), durable=False)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self.reports, error, OPTION) from error

    def gather(self) -> tuple[Result, ...]:
        """The results of all processes, with verdicts on the thresholds that any process decided."""
        found: dict[str, Result] = {}
        decided: dict[str, set[str]] = {}
        for path in sorted(self.folder.glob("results/*.json")):
            result = from_json(json.loads(path.read_text(encoding="utf-8")))
            known = found.get(result.id, result)  # phase 7 gathers what another process measured, which may know more
            found[result.id] = replace(result, details=known.details | result.details)
            decided.setdefault(result.id, set()).update(result.decided)
        for path in self.folder.glob("results/*.decided"):
            marked = json.loads(path.read_text(encoding="utf-8"))
            decided.setdefault(marked["id"], set()).update(marked["decided"])
        return tuple(found[name].as_decided(decided[name]) for name in sorted(found))

    def publish(self, run: Run, store: Store) -> Path:
        """Write the report of the saved results, move it into place in one step, and point `latest` at it.

        An interruption or a full disk leaves the whole report, or nothing of it: the store has all that it is made of.
        """
        from prism import report

        try:
            clear_leftovers(self.reports)
            samples = {
                result.id: list(read_json_lines(self.folder / "samples" / f"{result.phase}-{result.spec}.jsonl"))
                for result in run.results
            }
            report.write(self.folder, run, samples, store)
            shutil.rmtree(self.folder / "results")
            seal(self.folder)
            sync(self.folder)
            os.replace(self.folder, self.published)
            sync(self.published.parent)
        except BaseException:
            self.discard()
            raise
        finally:
            if self.published.is_dir():
                point_latest(self.reports, self.published)
        return self.published

    def discard(self) -> None:
        """Delete what was saved and is no report."""
        shutil.rmtree(self.folder, ignore_errors=True)


def clear_leftovers(reports: Path) -> None:
    """Delete what killed runs of this machine left: folders that are no reports yet, links that were to be `latest`."""
    for folder in (reports / "runs").glob(f".*@{glob.escape(MACHINE)}"):
        if _is_dead(folder.name.partition("@")[0].rpartition("-")[2], 16):
            shutil.rmtree(folder, ignore_errors=True)
    for link in reports.glob(f".latest-{glob.escape(MACHINE)}-*"):
        if _is_dead(link.name.rpartition("-")[2], 10):
            link.unlink(missing_ok=True)


def _is_dead(process: str, base: int) -> bool:
    """Whether no process has this id, in the digits of its base."""
    try:
        return not psutil.pid_exists(int(process, base))
    except ValueError:
        return False


def point_latest(reports: Path, folder: Path) -> None:
    """Point the link reports/latest at this run, in one step."""
    link, latest = reports / f".latest-{MACHINE}-{os.getpid()}", reports / "latest"
    if latest.is_dir() and not latest.is_symlink():
        raise StoreError(f"{latest}: must be a link, but is a folder; move it away. This run is in {folder}")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.relative_to(reports), target_is_directory=True)
    os.replace(link, latest)


def decided_verdicts(results: Sequence[Result]) -> list[Verdict]:
    """The verdict on every threshold that was selected and reached."""
    return [verdict for result in results for name, (_, verdict) in result.verdicts().items() if name in result.decided]


def is_failure(verdict: Verdict, required: Collection[str]) -> bool:
    """Whether a threshold fails the run: an inconclusive `drop` does only if decisions are `required`."""
    if verdict.state == "inconclusive":
        return verdict.key != "drop" or "decided" in required
    return verdict.state not in ("holds", "skipped")


def new_id() -> str:
    """The id of a run that begins now, which is also the name of its folder: the ids of one machine sort by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid():x}"


def partial(results: Sequence[Result], broken: Sequence[str], interrupted: str, limit: int | None = None) -> str:
    """Why a run is not complete; empty if it is. `limit` is --prism-limit."""
    if interrupted:
        return interrupted
    if limit:
        return f"a smoke run, --prism-limit {limit}: at most {limit} held-out and {limit} training rows per spec"
    for result in results:
        declared = result.verdicts().keys()
        if left := declared - set(result.decided):
            return f"{len(left)} of {len(declared)} thresholds of {result.id} were not selected or not reached"
    return f"{words.count(len(broken), 'item')} failed besides the thresholds" if broken else ""


def verdict(results: Sequence[Result], broken: Sequence[str], required: Collection[str]) -> tuple[Decision, str]:
    """The run's verdict and its reason; a pass names the gates that a know-nothing contender passes, which fails nothing.

    `broken` are items that failed besides the thresholds.
    """
    decided, reason = decision(results, broken, required)
    open_to_all = [result.id for result in results if passing(result.details.get("contenders") or {})]
    passed = f"; answers that know nothing would pass the gate of {', '.join(open_to_all)}" if open_to_all else ""
    return decided, reason + (passed if decided == "pass" else "")


def decision(results: Sequence[Result], broken: Sequence[str], required: Collection[str]) -> tuple[Decision, str]:
    """The run's verdict and its reason, from the thresholds alone."""
    if broken:
        return "fail", f"{words.count(len(broken), 'item')} failed besides the thresholds, first {broken[0]}"
    judged = any(name.startswith("tier3-") for result in results for name in result.decided)
    if "tier3" in required and not judged:
        return "fail", "tier 3 is required, but no selected spec has a tier-3 threshold"
    if results and not any(result.verdicts() for result in results):
        names = ", ".join(result.id for result in results)
        have = "has" if len(results) == 1 else "have"
        return "measured", f"nothing to decide: {names} {have} no [gate]; `prism thresholds SPEC` proposes one"
    verdicts = decided_verdicts(results)
    all_of = words.count(len(verdicts), "threshold")
    holding = sum(verdict.state == "holds" for verdict in verdicts)
    open_drops = sum(verdict.state == "inconclusive" and verdict.key == "drop" for verdict in verdicts)
    if bad := [verdict for verdict in verdicts if is_failure(verdict, ())]:
        return "fail", f"{len(bad)} of {all_of} {'does' if len(bad) == 1 else 'do'} not hold"
    left = f"{open_drops} of {all_of} {'is' if open_drops == 1 else 'are'} inconclusive"
    if open_drops and "decided" in required:
        return "fail", f"{left}, and --prism-require decided asks for a decision"
    if open_drops and not holding:
        return "pass", f"no threshold fails, but {left}"
    if not holding:
        return "fail", "no threshold was decided, which is not a pass"
    held = "the one decided threshold holds" if holding == 1 else f"all {holding} decided thresholds hold"
    return "pass", f"{held}; {left}" if open_drops else held
