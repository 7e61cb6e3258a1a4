"""Phase 3 from rows to report on a tiny base: controls that the adapter answers itself, and tier 3 with the context."""

import pytest

from tests.conftest import only_phase, results
from tests.loopback import Loopback

TABLE = [["$ million", "2019", "2018"], ["Net sales", "412", "385"], ["Cash", "31", "29"]]
CONTEXTS = [
    {
        "table": {
            "uid": f"r{n}",
            "table": [TABLE[0], *([line, str(n + i), str(n)] for i, (line, *_) in enumerate(TABLE[1:], 1))],
        },
        "paragraphs": [{"order": 1, "text": f"Report {n}"}, {"order": 2, "text": "It sells in Oslo and Rome."}],
        "questions": [
            {"question": "What was cash in 2019?", "answer_type": "span", "answer": [str(n + 2)], "scale": "million"},
            {"question": "Where does it sell?", "answer_type": "multi-span", "answer": ["Oslo", "Rome"], "scale": ""},
            {
                "question": "What was debt in 2019?",
                "answer_type": "unanswerable",
                "answer": ["not stated"],
                "scale": "",
            },
        ],
    }
    for n in range(24)
]
GATE = """
[gate.tier1]
exact_match    = { floor = 0.0 }
context_gain   = { gain = 0.9 }
answering_gain = { gain = -1.0 }
[gate.tier3]
"Answer Supported by Context [GEval]" = { floor = 0.0 }
"""


@pytest.fixture
def finance(checkout, tiny):
    """The checkout with phase 3 in place of phase 1."""
    options = {"max_seq_length = 128": "max_seq_length = 512", "train_rows = 96": "train_rows = 16"}
    only_phase(checkout, tiny, "phase3", "finance_qa", CONTEXTS, "context", GATE, new_tokens=6, options=options)
    return checkout


def run(checkout, *options):
    return checkout.runpytest_subprocess("benchmarks", "-m", "phase3", "--prism-profile", "nano", *options)


def test_controls_stand_beside_the_score_for_every_seed(finance):
    out = run(finance, "--prism-seeds", "2")
    out.assert_outcomes(passed=1, failed=2, skipped=1)
    table = results(finance)
    records = {record["metric"]: record for record in table["records"]}
    controls = {"without_context", "other_context", "shuffled_rows", "always_not_stated"}
    assert records["exact_match"]["controls"].keys() == controls
    assert records["exact_match"]["controls"]["always_not_stated"]["value"] == pytest.approx(1 / 3)
    assert records["exact_match"]["groups"] == 6
    assert records["context_gain"]["against"] == "without_context"
    assert (records["context_gain"]["n"], records["context_gain"]["unscored"]) == (12, 0)
    assert (records["exact_match_span"]["n"], records["exact_match_arithmetic"]["n"]) == (6, 0)
    assert records["answering_gain"]["baseline"]["value"] == pytest.approx(1 / 3)
    by_type = table["specs"][0]["details"]["answers"]
    assert by_type.keys() == {"baseline", "tuned", *controls}
    assert [row["type"] for row in by_type["tuned"]["by_type"]] == ["span", "multi-span", "unanswerable", "all"]
    assert {"controls, seed 42", "controls, seed 43"} <= table["cost"][0]["seconds"].keys()
    report = (finance.path / "reports" / "latest" / "report.md").read_text()
    assert "Exact match by type of answer" in report
    assert "| unanswerable | 6 |" in report
    assert "Exact match by type of answer" in (finance.path / "reports" / "latest" / "report.html").read_text()

    again = run(finance, "--prism-seeds", "2")
    again.assert_outcomes(passed=1, failed=2, skipped=1)
    again_stages = results(finance)["cost"][0]["cached"]
    assert "controls, seed 43" in again_stages


def test_the_judge_is_shown_the_context(finance):
    with Loopback() as server:
        run(finance, "--prism-judge", server.judge).assert_outcomes(passed=2, failed=2)
        supported = [prompt for prompt in server.asked if "retrieval context" in prompt.lower()]
        assert supported
        assert any("| Cash | " in prompt for prompt in supported)
    judged = {record["metric"]: record for record in results(finance)["records"] if record["tier"] == "tier3"}
    assert judged.keys() == {"Answer Supported by Context [GEval]", "Faithfulness"}
    assert judged["Answer Supported by Context [GEval]"]["n"] + judged["Faithfulness"]["n"] > 0
