"""Phase 2 from rows to report on a tiny base, with and without a judge: a loopback server that grades."""

import pytest

from tests.conftest import only_phase, results
from tests.loopback import Loopback

CARDS = [
    {"term": f"{bone} {n}", "question": f"What is the {bone} {n}?", "answer": f"A break of it may end in {harm}."}
    for n in range(20)
    for bone, harm in (
        ("ulna", "osteoporosis"),
        ("femur", "anemia"),
        ("tibia", "osteomyelitis"),
        ("rib", "pneumothorax"),
    )
]
GATE = """
[gate.tier2]
rougeL           = { floor = 0.0 }
content_gain     = { gain = 0.9 }
keyword_coverage = { floor = 0.0 }
[gate.tier3]
"Medical Correctness [GEval]" = { floor = 0.0 }
"""


@pytest.fixture
def medical(checkout, tiny):
    """The checkout with phase 2 in place of phase 1."""
    only_phase(checkout, tiny, "phase2", "medical_chat", CARDS, "term", GATE, new_tokens=12)
    return checkout


def run(checkout, *options):
    return checkout.runpytest_subprocess("benchmarks", "-m", "phase2", "--prism-profile", "nano", *options)


def test_without_a_judge_tier_3_is_skipped_named_and_can_be_required(medical):
    out = run(medical, "-rs")
    out.assert_outcomes(passed=2, failed=1, skipped=1)
    out.stdout.fnmatch_lines(["*no judge is configured: pass --prism-judge openai:gpt-4o-mini*"])
    table = results(medical)
    assert table["complete"] is True
    judged = next(record for record in table["records"] if record["tier"] == "tier3")
    assert judged["verdicts"][0]["state"] == "skipped"
    assert judged["tuned"]["value"] is None
    report = (medical.path / "reports" / "latest" / "report.md").read_text()
    assert report.count("no judge is configured") == 1
    assert "not judged" not in report, "the skipped threshold says why"
    rouge = next(record for record in table["records"] if record["metric"] == "rougeL")
    assert rouge["controls"].keys() == {"shuffled_references"}
    patterns = table["specs"][0]["details"]["failures"]["patterns"]
    assert sum(row["main"] for row in patterns) == 20
    assert sum(row["tuned"] for row in patterns) >= 20, "an answer may fail in several ways"
    assert "How answers fail" in report

    required = run(medical, "--prism-require", "tier3")
    required.assert_outcomes(passed=2, failed=2)
    only = run(medical, "-m", "phase2 and tier2")
    only.assert_outcomes(passed=2, failed=1, deselected=1)


def test_a_judge_grades_both_sides_once(medical):
    with Loopback() as server:
        out = run(medical, "--prism-judge", server.judge)
        out.assert_outcomes(passed=3, failed=1)
        asked = server.asked.total()
        assert asked
        again = run(medical, "--prism-judge", server.judge)
        again.assert_outcomes(passed=3, failed=1)
        assert server.asked.total() == asked
    table = results(medical)
    judged = {record["metric"]: record for record in table["records"] if record["tier"] == "tier3"}
    assert judged.keys() == {"Medical Correctness [GEval]", "Answer Relevancy"}
    found = judged["Medical Correctness [GEval]"]
    assert found["n"] + found["unscored"] == 20
    details = table["specs"][0]["details"]["judge"]
    assert details["calibration"]["Medical Correctness [GEval]"] == "not calibrated"
    assert "Tier 3 was judged by" in (medical.path / "reports" / "latest" / "report.md").read_text()


def test_a_judge_that_is_not_calibrated_decides_nothing_where_a_kappa_is_asked_for(medical):
    spec = medical.path / "benchmarks" / "specs" / "phase2" / "tiny.toml"
    spec.write_text(spec.read_text() + "[judge]\nmin_kappa = 0.6\n")
    with Loopback() as server:
        out = run(medical, "--prism-judge", server.judge, "-rs")
    out.assert_outcomes(passed=2, failed=1, skipped=1)
    out.stdout.fnmatch_lines(["*the judge is not calibrated*run prism calibrate-judge*"])


def test_a_budget_ends_judging_cleanly(medical):
    with Loopback() as server:
        run(medical, "--prism-judge", server.judge, "--prism-judge-budget", "3k tokens")
    details = results(medical)["specs"][0]["details"]["judge"]
    assert any("budget" in reason for reasons in details["unscored"].values() for reason in reasons)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--prism-judge", "gpt-4o-mini"], "not one of openai:MODEL"),
        (["--prism-judge", "openai:gpt-4o-mini"], "OPENAI_API_KEY is not set"),
        (["--prism-judge", "http://127.0.0.1:9/v1#m", "--prism-judge-budget", "a lot"], "write dollars"),
        (["--prism-judge", "http://[::1/v1#m"], "its address cannot be read; write http://HOST:PORT/v1#MODEL"),
        (["--prism-judge", "http://user:pass-word@h/v1#m"], "its address holds a user name or a password; leave that"),
    ],
)
def test_mistakes_about_the_judge_end_with_exit_code_4(medical, monkeypatch, options, sentence):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    out = run(medical, *options)
    assert out.ret == pytest.ExitCode.USAGE_ERROR
    said = out.stderr.str() + out.stdout.str()
    assert sentence in said
    assert "Traceback" not in said
    assert "pass-word" not in said


@pytest.mark.parametrize("door", ["reason", "400"])
def test_a_key_that_the_judge_echoes_is_written_nowhere(medical, monkeypatch, door):
    key = "sk-W4lkTh3D0gn0w"
    monkeypatch.setenv("PRISM_JUDGE_API_KEY", key)

    def instead(handler, _) -> bool:
        if door == "400":
            handler.send(400, {"error": {"message": f"bad {key}"}})
        return door == "400"

    with Loopback(key=key, grader=lambda _: f'{{"score": 3, "reason": "{key}"}}', instead=instead) as server:
        out = run(medical, "--prism-judge", server.judge, "--junitxml=reports/junit.xml", "-rA")
    written = {path: path.read_bytes() for top in ("reports", "home") for path in (medical.path / top).rglob("*.*")}
    assert not [path for path, content in written.items() if path.is_file() and key.encode() in content]
    assert key not in out.stdout.str() + out.stderr.str()
    samples = next(content for path, content in written.items() if path.parent.name == "samples")
    assert b"[redacted]" in samples


def test_a_judge_that_is_not_there_is_one_sentence(medical):
    out = run(medical, "--prism-judge", "http://127.0.0.1:9/v1#m")
    assert out.ret == pytest.ExitCode.TESTS_FAILED
    out.stdout.fnmatch_lines(["*JudgeError: *http://127.0.0.1:9/v1 cannot be reached*"])
