"""Redact known secrets in what pytest shows and JUnit files keep: reports of tests, warnings, internal errors."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any

import pytest

from prism.redaction import redact_logs, redacted


class Redacting:
    """The hooks that every report passes on its way out, after those that make it."""

    def __init__(self) -> None:
        redact_logs()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        return _redact((yield))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        return _redact((yield))

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        if redacted(str(warning_message.message)) != str(warning_message.message):
            warning_message.message = redacted(str(warning_message.message))

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self, excrepr: Any) -> None:
        if (text := redacted(str(excrepr))) != str(excrepr):
            excrepr.toterminal = lambda tw: tw.line(text)


def _redact(report: Any) -> Any:
    shown = report.longrepr
    if isinstance(shown, tuple):  # of a skip: file, line, reason
        report.longrepr = (*shown[:2], redacted(shown[2]))
    elif shown is not None and (text := redacted(str(shown))) != str(shown):
        report.longrepr = text
    report.sections = [(name, redacted(text)) for name, text in report.sections]
    if isinstance(report, pytest.TestReport):
        report.user_properties = [
            (name, redacted(value) if isinstance(value, str) else value) for name, value in report.user_properties
        ]
    return report
