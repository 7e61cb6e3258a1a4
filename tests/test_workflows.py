"""The workflows and the action: who may write what, one comment a pull request, and what inputs become."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

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


def require_safe_steps(steps):
    """No step runs a name of a branch or an input as shell, or an action of anybody's but GitHub's."""
    assert not any("${{" in step["run"] for step in steps if "run" in step)
    for step in steps:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])


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
        require_safe_steps(job["steps"])


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


# The reusable action, and the workflow that tries every Python


ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
CHECKS = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8"))


def test_the_action_takes_inputs_as_variables_and_installs_itself():
    assert ACTION["runs"]["using"] == "composite"
    steps = ACTION["runs"]["steps"]
    require_safe_steps(steps)
    scripts = [step for step in steps if "run" in step]
    assert all(step["shell"] == "bash" for step in scripts), "a composite action has no default"
    assert scripts[0]["run"].split()[-2:] == ['"$PRISM_ACTION"', "pytest-github-actions-annotate-failures"]
    used = set(re.findall(r"inputs\.([\w-]+)", str(ACTION["runs"])))
    assert used == set(ACTION["inputs"]), "each input is used, and each that is used is declared"
    assert all(value["description"] and "default" in value for value in ACTION["inputs"].values())


@pytest.mark.skipif(not shutil.which("bash"), reason="GitHub's runners have bash")
@pytest.mark.parametrize(
    ("given", "arguments", "summary"),
    [
        ({}, [], True),
        (
            {"select": "phase1 and tier1", "profile": "nano"},
            ["-m", "phase1 and tier1", "--prism-profile", "nano"],
            True,
        ),
        ({"arguments": "-n 2 -x", "select": "$(touch x)"}, ["-n", "2", "-x", "-m", "$(touch x)"], True),
        ({"summary": "false"}, [], False),
    ],
    ids=["nothing", "a selection", "no shell", "no summary"],
)
def test_the_action_passes_its_inputs_to_pytest(tmp_path, given, arguments, summary):
    step = next(step for step in ACTION["runs"]["steps"] if step.get("name") == "Run the benchmarks")
    stub = tmp_path / "bin" / "pytest"
    stub.parent.mkdir()
    stub.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        'print(json.dumps([sys.argv[1:], "GITHUB_STEP_SUMMARY" in os.environ]))\nsys.exit(5)\n'
    )
    stub.chmod(0o755)
    values = {name: value["default"] for name, value in ACTION["inputs"].items()} | given
    environment = {"PATH": f"{stub.parent}:{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": "summary.md"}
    for name, expression in step["env"].items():
        environment[name] = values[re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", expression)[1]]
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert json.loads(done.stdout) == [["benchmarks", *arguments], summary]
    assert done.returncode == 5, "pytest's exit code is the action's"
    assert not (tmp_path / "x").exists()


def test_every_python_that_the_package_names_is_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [text.rpartition(" ")[2] for text in project["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert CHECKS["jobs"]["checks"]["strategy"]["matrix"]["python"] == named
    assert {named[0], named[-1]} <= set(CHECKS["jobs"]["wheel"]["strategy"]["matrix"]["python"])
    for job in CHECKS["jobs"].values():
        require_safe_steps(job["steps"])
    made = [step["run"] for step in CHECKS["jobs"]["wheel"]["steps"] if "run" in step]
    assert made == ["make wheel"]
    assert os.access(ROOT / ".ci" / "wheel", os.X_OK)


def test_a_failing_threshold_is_marked_in_the_diff():
    scripts = [step["run"] for step in GATE["jobs"]["nano"]["steps"] if "run" in step]
    assert scripts[-1] == "make bench"
    assert "pytest-github-actions-annotate-failures" in scripts[-2]
