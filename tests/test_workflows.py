"""The gate's workflow: who may write what, and that a pull request gets one comment, however often it is pushed to."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}
GATE = WORKFLOWS["gate"]

GH = """#!{python}
# GitHub's side of `gh api`: a file of comments. A list is filtered by the step's own jq expression.
import json, pathlib, subprocess, sys
comments = pathlib.Path("comments.json")
known = json.loads(comments.read_text())
if "--jq" in sys.argv:
    done = subprocess.run(["jq", "-r", sys.argv[sys.argv.index("--jq") + 1]], input=json.dumps(known), text=True)
    sys.exit(done.returncode)
method = sys.argv[sys.argv.index("--method") + 1]
body = pathlib.Path(sys.argv[sys.argv.index("--field") + 1].removeprefix("body=@")).read_text()
if method == "POST":
    known.append({{"url": f"https://api/{{len(known)}}", "user": {{"login": "github-actions[bot]"}}, "body": body}})
else:
    next(comment for comment in known if comment["url"] in sys.argv)["body"] = body
comments.write_text(json.dumps(known))
"""


def test_only_the_job_that_runs_no_code_of_the_pull_request_may_write():
    assert "pull_request_target" not in GATE[True], "YAML reads the key `on` as true"
    assert GATE["permissions"] == {"contents": "read"}
    measure, comment = GATE["jobs"]["nano"], GATE["jobs"]["comment"]
    assert "permissions" not in measure
    assert comment["permissions"] == {"pull-requests": "write"}
    assert "head.repo.full_name == github.repository" in comment["if"]
    used = [step["uses"].partition("@") for step in comment["steps"] if "uses" in step]
    assert [action for action, _, _ in used] == ["actions/download-artifact"]
    for job in GATE["jobs"].values():
        scripts = [step["run"] for step in job["steps"] if "run" in step]
        assert not any("${{" in script for script in scripts), "a name of a branch would be run as shell"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit_and_no_credentials_are_kept(name):
    """A tag can be moved to other code, and the token of a checkout can be read by the code that was checked out."""
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    used = [step for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    for step in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
        if step["uses"].startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.skipif(
    not (shutil.which("jq") and shutil.which("bash")), reason="jq and bash are what GitHub's runners have"
)
def test_a_pull_request_has_one_comment(tmp_path):
    step = GATE["jobs"]["comment"]["steps"][-1]
    gh = tmp_path / "bin" / "gh"
    gh.parent.mkdir()
    gh.write_text(GH.format(python=sys.executable))
    gh.chmod(0o755)
    imposter = {"url": "https://api/0", "user": {"login": "someone"}, "body": "<!-- prism: nano -->\nnot the bot's"}
    (tmp_path / "comments.json").write_text(json.dumps([imposter]))
    environment = {
        "PATH": f"{gh.parent}:{os.environ['PATH']}",
        "COMMENTS": "repos/o/r/issues/1/comments",
        "RUN": "https://run",
    }

    def push(report: str) -> list[str]:
        if report:
            path = tmp_path / "report" / "20260102-030405-1f" / "report.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(report)
        command = ["bash", "-eo", "pipefail", "-c", step["run"]]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=60)
        return [comment["body"] for comment in json.loads((tmp_path / "comments.json").read_text())]

    mine = push("")[1:]
    assert len(mine) == 1
    assert "No report was written" in mine[0]
    for said in ("# PASS: first", "# FAIL: $(second) `x`"):
        others, *mine = push(said)
        assert others == imposter["body"]
        assert len(mine) == 1
        assert mine[0].startswith(f"<!-- prism: nano -->\n{said}\n")
        assert mine[0].endswith("[the run, its log and the whole report](https://run)\n")
