"""Known secrets leave the process by no door: errors, logs, files of the store, what pytest shows and writes."""

import base64
import html
import io
import json
import logging
import os
import re
from urllib.parse import quote, quote_plus

import pytest

from prism.errors import ModelError, PrismError
from prism.judge import MEDICAL_CORRECTNESS, Case
from prism.judge.choosing import JudgeError, choose
from prism.judge.grading import grade
from prism.judge.replies import NotGraded
from prism.progress import Console
from prism.redaction import REDACTED, keep, redact_logs, redacted
from prism.store import Store, write_text
from tests.conftest import ROOT
from tests.loopback import Loopback

KEY = 'sk-W4lk/Th3+D0g&"n0w"\\7'  # with each character that some escape changes


@pytest.fixture(autouse=True)
def secrets(monkeypatch, tmp_path):
    monkeypatch.setattr("prism.redaction._kept", set())
    for name in ("OPENAI_API_KEY", "PRISM_JUDGE_API_KEY", "HF_TOKEN", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PRISM_JUDGE_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "hub" / "token"))


def base(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


FORMS = {
    "as it is": KEY,
    "in a URL": quote(KEY, safe=""),
    "in a URL, lower case": re.sub("%..", lambda found: found[0].lower(), quote(KEY, safe="")),
    "in a form": quote_plus(KEY),
    "JSON": json.dumps(KEY),
    "JSON with slashes escaped": json.dumps(KEY).replace("/", r"\/"),
    "JSON in JSON": json.dumps(json.dumps({"k": KEY})),
    "JSON in numbers": "".join(f"\\u{ord(c):04x}" for c in KEY),
    "HTML": html.escape(KEY),
    "base64": base(KEY),
    "Bearer": base(f"Bearer {KEY}"),
    "Basic": base(f"user:{KEY}"),
    "Basic with nobody": base(f":{KEY}"),
    "Basic without a password": base(f"{KEY}:"),
    "base64 for URLs": base64.urlsafe_b64encode(f"ab{KEY}>>>".encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_each_form_of_a_key(form):
    found = redacted(f"before {form} after")
    assert REDACTED in found
    assert found.startswith("before ")
    assert found.endswith(" after")
    assert "W4lk" not in found
    left = found.removeprefix("before ").removesuffix(" after").replace(REDACTED, "")
    assert len(left) <= 16, "what stood around the key, in base64 with a character of which it is a part"


@pytest.mark.parametrize("key", ["x", "none", "EMPTY", "ollama", "seven77"])
def test_a_value_under_8_characters_spoils_no_word(monkeypatch, key):
    monkeypatch.setenv("PRISM_JUDGE_API_KEY", key)
    keep(key)
    text = f"{key} of these: x, none, EMPTY, ollama, seven77"
    assert redacted(text) == text


@pytest.mark.parametrize("variable", ["HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_the_tokens_that_a_login_has_saved(monkeypatch, tmp_path, variable):
    folder = tmp_path / {"XDG_CACHE_HOME": "huggingface", "HOME": ".cache/huggingface"}.get(variable, "")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(folder / "token" if variable == "HF_TOKEN_PATH" else tmp_path))
    said = "hf_saved1 and hf_saved2, of [stored]"
    assert redacted(said) == said
    (folder / "token").write_text("hf_saved1\n")
    (folder / "stored_tokens").write_text("[stored]\nhf_token = hf_saved2\n\n")
    assert redacted(said) == f"{REDACTED} and {REDACTED}, of [stored]"
    (folder / "token").write_bytes(b"\xff\xfe")
    os.utime(folder / "token", (1, 1))
    assert redacted(said) == f"hf_saved1 and {REDACTED}, of [stored]", "a file that is no text holds no token"


def test_which_variables_hold_secrets(monkeypatch):
    values = {
        "HF_TOKEN": "hf_short1",
        "OPENAI_API_KEY": " sk-short1 \r\n",
        "GITHUB_TOKEN": "ghs_0123456789abcdef",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
        "https_proxy": "http://me:pr0xy-pass@proxy:3128",
    }
    others = {"SOME_TOKEN": "fifteen-letters", "HF_TOKEN_PATH": "/home/me/.cache/token", "HOME_KEYS": "a" * 20}
    for name, value in (values | others).items():
        monkeypatch.setenv(name, value)
    for secret in ("hf_short1", "sk-short1", "ghs_0123456789abcdef", "wJalrXUtnFEMI/K7MDENG", "pr0xy-pass"):
        assert redacted(f"<{secret}>") == f"<{REDACTED}>"
    for value in others.values():
        assert redacted(value) == value


def test_of_two_secrets_the_one_that_holds_the_other_goes_first(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", KEY + "-and-more")
    assert redacted(f"{KEY}-and-more {KEY}") == f"{REDACTED} {REDACTED}"


def test_errors_and_their_arguments():
    for error in (PrismError(f"refused {KEY}"), ModelError(KEY, 5), JudgeError(KEY), NotGraded(KEY, final=True)):
        assert KEY not in f"{error} {error!r} {error.args} {vars(error)}"
    assert ModelError("a", 5).args == ("a", 5)


def test_logs_with_arguments_and_tracebacks(monkeypatch):
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    redact_logs()
    redact_logs()
    log, out = logging.getLogger("tests.redaction"), io.StringIO()
    handler = logging.StreamHandler(out)
    log.addHandler(handler)
    try:
        log.error("the server said %s to %d", KEY, 5)
        log.error("%d", KEY)
        try:
            raise ValueError(f"invalid header {KEY}")
        except ValueError:
            log.exception("it failed")
        log.error("nothing %s", "secret")
    finally:
        log.removeHandler(handler)
    assert "W4lk" not in out.getvalue()
    assert f"the server said {REDACTED} to 5\n" in out.getvalue()
    assert f"ValueError: invalid header {REDACTED}" in out.getvalue()
    assert out.getvalue().endswith("nothing secret\n")


def test_text_files_and_the_screen(tmp_path, capsys):
    write_text(tmp_path / "results.json", json.dumps({"reason": KEY, "n": 1}))
    assert json.loads((tmp_path / "results.json").read_text()) == {"reason": REDACTED, "n": 1}
    Console().say(f"judged with {KEY}")
    assert capsys.readouterr().err == f"prism: judged with {REDACTED}\n"


class TestJudge:
    def test_a_reason_a_model_name_and_an_escape_that_echo_the_key(self, tmp_path):
        escaped = "".join(f"\\u{ord(c):04x}" for c in KEY)
        for n, reason in enumerate(
            [json.dumps(KEY), f'"{escaped}"', json.dumps(f"{base(f'Bearer {KEY}')} {quote(KEY)}")]
        ):
            store = Store(tmp_path / str(n))
            with Loopback(grader=lambda _, r=reason: f'{{"score": 8, "reason": {r}}}', key=KEY) as server:
                found = grade(choose(server.judge), MEDICAL_CORRECTNESS, [Case("a", "q", "b", "c")], store)[0]
            assert found.score == 0.8
            assert REDACTED in found.reason
            written = b"".join(file.read_bytes() for file in store.home.rglob("*") if file.is_file())
            assert b"W4lk" not in written
            assert REDACTED.encode() in written

    def test_a_judgement_that_was_kept_with_the_key(self, tmp_path, monkeypatch):
        store, case = Store(tmp_path), Case("a", "q", "b", "c")
        with Loopback(grader=lambda _: json.dumps({"score": 8, "reason": "an-0lder-key"})) as server:
            assert grade(choose(server.judge), MEDICAL_CORRECTNESS, [case], store)[0].reason == "an-0lder-key"
            monkeypatch.setenv("PRISM_JUDGE_API_KEY", "an-0lder-key")
            assert grade(choose(server.judge), MEDICAL_CORRECTNESS, [case], store)[0].reason == REDACTED
            assert server.asked.total() == 1

    @pytest.mark.parametrize("status", [400, 401, 404, 429, 307])
    def test_a_refusal_that_echoes_the_key(self, tmp_path, status):
        told = {"error": {"message": f"{'x' * 190} {KEY} insufficient_quota"}}

        def instead(handler, _) -> bool:
            handler.send_response(status)
            handler.send_header("Location", f"http://elsewhere/{quote(KEY)}")
            body = json.dumps(told).encode()
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return True

        with Loopback(instead=instead, key=KEY) as server:
            try:
                said = grade(choose(server.judge), MEDICAL_CORRECTNESS, [Case("a", "q", "b", "c")], Store(tmp_path))[
                    0
                ].reason
            except JudgeError as error:
                said = str(error)
        assert f"{status}" in said
        assert "sk-" not in said, "nor a part of it, where the message is cut"

    def test_a_key_that_is_refused(self, tmp_path):
        with Loopback(key="another") as server, pytest.raises(JudgeError, match="the key was refused") as info:
            grade(choose(server.judge), MEDICAL_CORRECTNESS, [Case("a", "q", "b", "c")], Store(tmp_path))
        assert KEY not in repr(info.value)


ITEMS = """
import logging, os, sys, warnings
import pytest

KEY = os.environ["PRISM_JUDGE_API_KEY"]


def test_fails(record_property):
    record_property("key", KEY)
    print(KEY)
    print(KEY, file=sys.stderr)
    logging.getLogger("a").warning("key %s", KEY)
    warnings.warn(f"key {KEY}")
    raise ValueError(KEY)


def test_is_skipped():
    pytest.skip(f"key {KEY}")


@pytest.fixture
def broken():
    raise RuntimeError(KEY)


def test_breaks(broken):
    pass
"""


class TestPytest:
    @pytest.fixture(autouse=True)
    def plugin(self, pytester, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("PRISM_JUDGE_API_KEY", "sk-W4lkTh3D0gn0w")
        (pytester.path / "pytest.ini").write_text("[pytest]\naddopts = -p prism.plugin.hooks -p no:deepeval\n")

    def test_what_it_shows_and_writes(self, pytester):
        pytester.makepyfile(
            test_it=ITEMS, test_uncollectable="import os; raise OSError(os.environ['PRISM_JUDGE_API_KEY'])"
        )
        options = [
            "--junitxml=j.xml",
            "-rA",
            "--showlocals",
            "-ojunit_family=xunit1",
            "--continue-on-collection-errors",
            "--log-file=l.txt",
        ]
        found = pytester.runpytest_subprocess(*options, "--log-cli-level=WARNING")
        found.assert_outcomes(failed=1, skipped=1, errors=2, warnings=1)
        for said in (
            found.stdout.str(),
            found.stderr.str(),
            *((pytester.path / n).read_text() for n in ("j.xml", "l.txt")),
        ):
            assert "W4lk" not in said
        for written in ("j.xml", "l.txt"):
            assert REDACTED in (pytester.path / written).read_text()

    def test_an_error_of_pytest_itself(self, pytester):
        pytester.makeconftest(
            "import os\ndef pytest_collection_modifyitems():\n    raise OSError(os.environ['PRISM_JUDGE_API_KEY'])"
        )
        pytester.makepyfile("def test_a(): pass")
        found = pytester.runpytest_subprocess()
        found.stdout.fnmatch_lines([f"INTERNALERROR> OSError: {REDACTED.replace('[', '[[]')}"])
        assert "W4lk" not in found.stdout.str() + found.stderr.str()
