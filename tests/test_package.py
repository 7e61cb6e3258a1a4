"""The wheel: what it holds, and what its entry point does in a project with specs, in any other, beside a checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prism.cli import app
from tests.conftest import ROOT, SPEC, write_rows, write_spec

FAST = ("-p", "no:deepeval", "-p", "no:rerunfailures", "-p", "no:repeat", "-p", "no:asyncio", "-p", "no:anyio")
BENCHMARK = "import pytest\n\npytestmark = pytest.mark.phase1\n\n\ndef test_thresholds(spec, threshold, run):\n    run.check(threshold)\n"


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A folder with a wheel and an sdist, built of what git would hold, without a network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "pytest_prism.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "prism", source / "prism", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("benchmarks", "fixtures", "tests"):  # as in a checkout: folders that no wheel may install
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    build = "from setuptools import build_meta as b; b.build_wheel({0!r}); b.build_sdist({0!r})".format(str(out))
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=300)
    return out


@pytest.fixture(scope="session")
def wheel(built, tmp_path_factory) -> Path:
    """The wheel's files in a folder for PYTHONPATH, where its entry point is found, too."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as file:
        file.extractall(folder)
    return folder


@pytest.fixture
def project(tmp_path) -> Path:
    """A project of a stranger, with one test of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_own.py").write_text("import sys\n\n\ndef test_own():\n    assert 'prism' not in sys.modules\n")
    return folder


def add_spec(folder: Path) -> None:
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "test_phase1_own.py").write_text(BENCHMARK)
    data = write_rows(folder / "rows.jsonl", [{"tweet": "a", "sentiment": 0}])
    write_spec(folder, SPEC.format(data=data, model="owner/name"))


def pytest_in(folder: Path, path: Path, *options: str) -> tuple[int, str]:
    """The exit code and output of `pytest` as a command, which does not put its own folder on sys.path."""
    found = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *FAST, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path), "PRISM_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return found.returncode, found.stdout + found.stderr


def test_the_wheel_holds_the_package_its_licence_and_nothing_beside(built, wheel):
    (info,) = wheel.glob("pytest_prism-*.dist-info")
    assert {path.name for path in wheel.iterdir()} == {"prism", "pytest_prism.py", info.name}
    assert (info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    own = {path.relative_to(ROOT) for path in (ROOT / "prism").rglob("*") if "__pycache__" not in path.parts}
    assert {path for path in own if (ROOT / path).is_file()} == {
        path.relative_to(wheel) for path in (wheel / "prism").rglob("*") if path.is_file()
    }, "py.typed, lexicons, templates and the judge's calibration are part of it"
    about = message_from_string((info / "METADATA").read_text(encoding="utf-8"))
    assert about["Name"] == "pytest-prism"
    assert about["License-Expression"] == "Apache-2.0"
    assert {"Framework :: Pytest", "Typing :: Typed"} <= set(about.get_all("Classifier"))
    with tarfile.open(next(built.glob("*.tar.gz"))) as file:
        assert {name.split("/")[1] for name in file.getnames() if "/" in name} >= {
            "prism",
            "pytest_prism.py",
            "LICENSE",
        }


def test_an_unrelated_run_neither_imports_prism_nor_sees_its_options(wheel, project):
    code, out = pytest_in(project, wheel, "-q")
    assert code == 0, out
    code, out = pytest_in(project, wheel, "--help")
    assert "--prism" not in out
    code, out = pytest_in(project, wheel, "--trace-config", "--collect-only")
    assert str(wheel / "pytest_prism.py") in out, "the entry point was there"


def test_an_unrelated_project_keeps_its_own_package_of_that_name(wheel, project):
    (project / "prism").mkdir()
    (project / "prism" / "__init__.py").write_text("OWN = True\n")
    (project / "conftest.py").touch()
    (project / "test_own.py").write_text("import prism\n\n\ndef test_own():\n    assert prism.OWN\n")
    code, out = pytest_in(project, wheel, "-q")
    assert code == 0, out


def test_an_option_in_a_project_without_specs_says_what_is_missing(wheel, project):
    code, out = pytest_in(project, wheel, "--prism-profile", "nano")
    assert code == 4
    assert f"ERROR: --prism-profile: {project} has no benchmarks/specs; run pytest in a project that has specs" in out


@pytest.mark.parametrize("conftest", ["", 'pytest_plugins = ["prism.plugin.hooks"]\n'], ids=["none", "names it, too"])
def test_a_project_with_specs_needs_the_wheel_alone(wheel, project, conftest):
    add_spec(project)
    (project / "conftest.py").write_text(conftest)
    code, out = pytest_in(project, wheel, "benchmarks", "--collect-only", "-q", "--prism-profile", "nano")
    assert code == 0, out
    assert "test_phase1_own.py::test_thresholds[tiny-tier1-accuracy-gain]" in out
    code, out = pytest_in(project, wheel, "--help")
    assert "--prism-limit" in out


def test_a_checkout_on_the_path_needs_its_conftest_alone(project):
    add_spec(project)
    for conftest in ((ROOT / "conftest.py").read_text(), 'pytest_plugins = ["prism.plugin.hooks", "fixtures.run"]\n'):
        (project / "conftest.py").write_text(conftest)
        code, out = pytest_in(project, ROOT, "benchmarks", "--collect-only", "-q", "--prism-profile", "nano")
        assert code == 0, out
        assert "test_phase1_own.py::test_thresholds[tiny-tier1-accuracy-gain]" in out


def test_workers_load_the_entry_point_too(wheel, project):
    add_spec(project)
    code, out = pytest_in(project, wheel, "benchmarks", "-n", "1", "--prism-profile", "full")
    assert code == 5, out
    assert "no tests ran" in out


@pytest.mark.parametrize("file", ["plugin/hooks.py", "__init__.py"], ids=["a checkout", "a stranger's package"])
def test_a_wheel_beside_a_package_of_its_name_is_one_sentence(wheel, project, file):
    add_spec(project)
    for name in dict.fromkeys(["__init__.py", file]):
        (project / "prism" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "prism" / name).touch()
    checkout = file != "__init__.py"
    path = wheel if checkout else os.pathsep.join([str(project), str(wheel)])
    code, out = pytest_in(project, path, "benchmarks")
    said = f"{project}/prism: is not the package that was installed" if checkout else "is another package than pytest-"
    assert code == 4, out
    (line,) = [line for line in out.splitlines() if line.startswith("ERROR: ")]
    assert said in line


def test_the_command_refuses_a_checkout_of_another_prism(tmp_path, monkeypatch):
    (tmp_path / "prism" / "plugin").mkdir(parents=True)
    (tmp_path / "prism" / "plugin" / "hooks.py").touch()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["specs"])
    assert done.exit_code == 2
    assert done.output.startswith(f"prism: {tmp_path}/prism: is not the package that runs, {ROOT}/prism; run `pip")
    monkeypatch.chdir(ROOT)
    assert CliRunner().invoke(app, ["schema"]).exit_code == 0


@pytest.mark.slow
def test_a_stranger_gets_from_the_wheel_to_a_verdict(wheel, tmp_path):
    """In an empty repository, with a base of their own: what `prism init` writes is enough, and nothing else is read."""
    shutil.copytree(ROOT / "fixtures" / "models" / "nano-text", tmp_path / "base")
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    command = [sys.executable, "-P", "-m", "prism", "init", "--model", "base"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert "by the tokenizer of base" in done.stdout
    assert not (tmp_path / "conftest.py").exists(), "pytest finds an installed PRISM by itself"
    code, out = pytest_in(tmp_path, wheel, "benchmarks")
    assert code == 0, out
    found = json.loads((tmp_path / "reports" / "latest" / "results.json").read_text())
    assert (found["verdict"], found["complete"]) == ("pass", True)
    held = {(r["metric"], v["key"]): v["state"] for r in found["records"] for v in r["verdicts"]}
    assert held == dict.fromkeys(
        [("accuracy", "gain"), ("unparsable_rate", "ceiling"), ("knowledge_gain", "gain")], "holds"
    )
    commands = [sys.executable, "-P", "-m", "prism", "calibrate-judge", "--judge", "local:nowhere"]
    asked = subprocess.run(
        commands, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert "graded" not in asked.stderr, "its rows are in the wheel: only the judge is missing"
    assert asked.returncode == 2
