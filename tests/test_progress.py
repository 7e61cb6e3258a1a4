"""What is drawn while a run works: bars on a terminal, which pytest's capture hides nothing of, and lines elsewhere."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from prism import progress
from prism.plugin.screen import Screen
from tests.test_plugin import change, run

COMMAND = [sys.executable, "-m", "pytest", "benchmarks", "-m", "phase1", "--prism-profile", "nano"]


def typed(checkout, columns: int, *options: str) -> str:
    """Everything that a run prints on a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*COMMAND, *options], cwd=checkout.path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: nobody holds the other end any more
            break
        if not part:
            break
        shown += part
    process.wait(timeout=60)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode(errors="replace"))  # pytest's colours


@pytest.mark.slow
def test_bars_are_drawn_on_a_terminal_while_pytest_captures(checkout):
    change(checkout, "num_train_epochs = 2", "num_train_epochs = 12")
    change(checkout, "[gate.tier1]", "[requires]\nminutes = 7\n\n[gate.tier1]")
    shown = typed(checkout, 80)
    bars = [bar.strip() for bar in re.findall(r"\r([^\r\n]*\|[^\r\n]*)", shown)]
    training = [bar for bar in bars if bar.startswith("phase1/tiny: training")]
    assert any(re.search(r"\|.*\| \d+/\d+, \d\d:\d\d left, loss \d\.\d{3}, run [67] min$", bar) for bar in training), (
        shown
    )
    assert any(bar.startswith("phase1/tiny: answers, basel") for bar in bars), shown
    assert max(map(len, bars)) <= 80, "a longer one wraps, and each redraw leaves a line"
    assert "\r" + " " * len(training[-1]) in shown, "the bar is gone when its stage ends"
    said = [line.rpartition("\r")[2] for line in shown.replace("\r\n", "\n").split("\n")]
    assert any(re.fullmatch(r"prism: phase1/tiny: training, seed 42: [\d.]+ s", line) for line in said), shown
    assert "\x1b[A" not in shown, "a bar within a stage takes the place of the stage's"


def test_no_bar_is_drawn_in_a_file_or_by_workers(checkout):
    for options in ([], ["-n", "2"]):
        out = run(checkout, *options)
        assert "|" not in out.stderr.str() + out.stdout.str()
    assert not re.search("\r(?!\n)", out.stderr.str())


def test_a_line_a_minute_tells_how_far_a_stage_is_where_there_is_no_terminal(monkeypatch):
    clock = iter(range(0, 10_000, 25))  # seconds, at each look
    file = io.StringIO()
    monkeypatch.setattr("tqdm.std.tqdm._time", lambda *_: next(clock), raising=False)
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))
    with progress.bar("phase1/nano: training", 20, file, False) as shown:
        shown.set_postfix_str("loss 1.250", refresh=False)
        for _ in range(10):
            shown.update(1)
    lines = file.getvalue().splitlines()
    assert 2 <= len(lines) < 10
    assert re.fullmatch(r"prism: phase1/nano: training: \d+ of 20, \d+:\d+ left, loss 1\.250", lines[0])


def test_a_stage_of_seconds_says_nothing_on_its_way_and_none_without_steps():
    file = io.StringIO()
    for total in (3, 0):
        with progress.bar("phase1/nano: leaks", total, file, False) as shown:
            shown.update(2)
    assert file.getvalue() == ""


def test_secrets_and_escapes_are_not_drawn(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefghijklmnop1234")
    file = io.StringIO()
    with progress.bar("judging by \x1b[2J sk-abcdefghijklmnop1234", 3, file, True):
        pass
    assert "\x1b" not in file.getvalue()
    assert "sk-abcdefghijklmnop1234" not in file.getvalue()


def test_the_end_of_a_run_is_foretold_where_all_its_specs_say_how_long_they_take(pytestconfig):
    screen = Screen(pytestconfig)
    screen.expect({"phase1/a": 3, "phase2/b": 10})
    screen.begin("phase1/a")
    assert screen._left() == "run 13 min"
    screen.begin("phase2/b")
    assert screen._left() == "run 10 min"
    screen.expect({"phase1/a": 3, "phase2/b": 0})
    screen.begin("phase1/a")
    assert screen._left() == ""
