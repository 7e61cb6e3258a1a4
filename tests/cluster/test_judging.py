"""A judge's grades as tasks: graded once, by one budget, with a key that is written nowhere."""

import platform
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import results, write_rows
from tests.loopback import Loopback
from tests.test_plugin import run

ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-cluster` installs it and runs these")
pytestmark = [pytest.mark.slow, pytest.mark.cluster]

KEY = "sk-W4lkTh3D0gn0w"
TWO = {"one": {}, "two": {"learning_rate = 1e-2": "learning_rate = 2e-2"}}
EACH = {"passed": 4, "failed": 2}  # the gains of .9 are out of reach
GRADED = rf"phase1/\w+: Sentiment Correctness \[GEval\] by endpoint:overlap: [\d.]+ s \({re.escape(platform.node())}\)"


@pytest.fixture
def anywhere(checkout):
    """The judge's server is on this machine, as all nodes of these tests are; the driver takes it for another's."""
    conftest = checkout.path / "conftest.py"
    told = "from prism.judge.choosing import Choice\n\nChoice.is_here = False\n"
    conftest.write_text(f"{conftest.read_text()}\n\n{told}")


def printed(out):
    return out.stdout.str() + out.stderr.str()


def judged(checkout):
    """The judge's records, and what the judge of each spec said and cost."""
    table = results(checkout)
    records = [
        [record[name] for name in ("spec", "metric", "n", "unscored", "baseline", "tuned")]
        for record in table["records"]
        if record["tier"] == "tier3"
    ]
    return records, [spec["details"]["judge"] for spec in table["specs"]]


def written(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for top in folders for path in top.rglob("*") if path.is_file()}


def test_grades_are_tasks_and_the_same_as_a_local_runs(checkout, specs, two_nodes, anywhere):
    specs(**TWO)
    with Loopback() as server:
        run(checkout, "--prism-home", "local", "--prism-judge", server.judge).assert_outcomes(**EACH)
        (locally, _), asked = judged(checkout), server.asked.copy()
        out = run(checkout, "--prism-cluster", two_nodes.address, "--prism-judge", server.judge)
        out.assert_outcomes(**EACH)
        told = printed(out)
        assert "5 tasks for the cluster" in told  # two adapters, the baseline of both, a judge's of each
        assert len(re.findall(GRADED, told)) == 2
        found, details = judged(checkout)
        assert locally == found
        assert len(found) == 2
        assert server.asked == {prompt: 2 * times for prompt, times in asked.items()}
        assert details[-1]["spending"]["requests"] == asked.total(), "the tasks' requests are the run's"
        again = run(checkout, "--prism-cluster", "127.0.0.1:1", "--prism-judge", server.judge)
        again.assert_outcomes(**EACH)  # all is there, so no cluster is asked
        assert server.asked.total() == 2 * asked.total()


def test_the_key_is_written_nowhere_and_redacted_on_the_node(checkout, specs, made, anywhere, monkeypatch):
    specs(tiny={})
    nodes = made({})  # in whose environment there is no key
    monkeypatch.setenv("PRISM_JUDGE_API_KEY", KEY)
    with Loopback(key=KEY, grader=lambda _: f'{{"score": 3, "reason": "{KEY}"}}') as server:
        out = run(checkout, "--prism-cluster", nodes.address, "--prism-judge", server.judge, "-rA")
        out.assert_outcomes(passed=2, failed=1)
        assert server.answered.total()
    assert len(re.findall(GRADED, printed(out))) == 1
    session = Path(nodes.cluster.head_node.get_session_dir_path())
    ours, rays = written(checkout.path / "home", checkout.path / "reports"), written(session)
    assert not [path for path, content in (ours | rays).items() if KEY.encode() in content]
    assert KEY not in printed(out)
    assert [content for path, content in ours.items() if path.name == "judgements.jsonl" and b"[redacted]" in content]
    assert any(b"raylet" in path.name.encode() for path in rays), "Ray's logs were looked at"
    events = task_events(nodes.address)
    assert b"phase1/tiny judgements" in events, "what the dashboard shows was looked at"
    assert KEY.encode() not in events


def task_events(address) -> bytes:
    """What Ray's head knows of all tasks, and its dashboard shows."""
    from ray._raylet import GcsClientOptions, GlobalStateAccessor

    accessor = GlobalStateAccessor(GcsClientOptions.create(address, None, True, False))
    accessor.connect()
    return b"".join(accessor.get_task_events())


def test_a_judge_that_fails_fails_its_specs_items_alone(checkout, specs, two_nodes, rows):
    specs(good={}, refused={})
    other = [row | {"tweet": row["tweet"].replace("Company", "Poisoned")} for row in rows]
    data = write_rows(checkout.path / "data" / "other" / "train.jsonl", other)
    spec = checkout.path / "benchmarks" / "specs" / "phase1" / "refused.toml"
    spec.write_text(spec.read_text().replace(str(checkout.path / "data" / "train.jsonl"), str(data)))

    def instead(handler, prompt):
        if "Poisoned" in prompt:
            handler.send(401, {"error": {"message": "not you"}})
        return "Poisoned" in prompt

    with Loopback(instead=instead) as server:
        out = run(checkout, "--prism-cluster", two_nodes.address, "--prism-judge", server.judge)
    out.assert_outcomes(passed=2, failed=1, errors=3)
    host = re.escape(platform.node())
    assert re.search(rf"ClusterError: phase1/refused judgements, on {host}: judge .* none is set \(401", printed(out))
    assert "Traceback" not in printed(out)
    assert [spec["spec"] for spec in results(checkout)["specs"]] == ["good"]
    assert judged(checkout)[0][0][2] > 0


def test_the_budget_is_one_for_all_tasks(checkout, specs, two_nodes, anywhere):
    specs(**TWO)
    with Loopback() as server:
        judge = ("--prism-judge", server.judge, "--prism-judge-budget", "30k tokens")
        out = run(checkout, "--prism-cluster", two_nodes.address, *judge)
        assert len(re.findall(GRADED, printed(out))) == 2
    _, details = judged(checkout)
    spent = details[-1]["spending"]
    assert 0 < spent["prompt_tokens"] + spent["completion_tokens"] <= 30_000
    reasons = [reason for told in details for reason in told["unscored"].get("Sentiment Correctness [GEval]", ())]
    assert any("budget reached" in reason for reason in reasons), "of whichever spec came second"


def test_judgements_travel_where_nodes_do_not_see_the_store(checkout, specs, made, anywhere):
    specs(tiny={})
    conftest = checkout.path / "conftest.py"
    told = "from prism.cluster import joining\n\njoining.write_token = lambda home: None\n"
    conftest.write_text(f"{conftest.read_text()}\n\n{told}")
    there = checkout.path / "theirs"
    nodes = made({"env_vars": {"PRISM_HOME": str(there)}})
    with Loopback() as server:
        half = ("--prism-judge", server.judge, "--prism-judge-budget", "10k tokens")
        out = run(checkout, "--prism-cluster", nodes.address, *half)
        first = server.asked.total()
        assert first
        assert len(re.findall(GRADED, printed(out))) == 1
        shutil.rmtree(there)  # the rest is asked for by another node, which is sent what is known
        out = run(checkout, "--prism-cluster", nodes.address, "--prism-judge", server.judge)
        assert len(re.findall(GRADED, printed(out))) == 1
        assert max(server.asked.values()) == 1
        assert server.asked.total() > first
        found, _ = judged(checkout)
        asked = server.asked.total()
        run(checkout, "--prism-judge", server.judge).assert_outcomes(passed=2, failed=1)
        assert server.asked.total() == asked
    assert judged(checkout)[0] == found
