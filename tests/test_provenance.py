"""The state of a working tree: unknown is not clean."""

import subprocess

import pytest

from prism.store.provenance import provenance


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "conftest.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    return tmp_path, git


def changed(folder):
    (folder / "conftest.py").write_text("a = 2\n")


def untracked_and_not_shown(folder, git):
    git("config", "status.showUntrackedFiles", "no")
    (folder / "new.py").write_text("")


def assumed_unchanged(folder, git):
    git("update-index", "--assume-unchanged", "conftest.py")
    changed(folder)


def never_looked_at(folder, git):
    git("update-index", "--skip-worktree", "conftest.py")
    changed(folder)


def damaged_index(folder, git):
    (folder / ".git" / "index").write_bytes(b"damaged")


def of_a_report(folder, git):
    (folder / "reports").mkdir()
    (folder / "reports" / "new.json").write_text("")


def of_compiled_python(folder, git):
    """What pytest leaves beside each benchmark, in a project that has no .gitignore."""
    (folder / "benchmarks" / "__pycache__").mkdir(parents=True)
    (folder / "benchmarks" / "__pycache__" / "test_x.cpython-311-pytest-9.2.0.pyc").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "dirty"),
    [
        (lambda folder, git: None, False),
        (of_a_report, False),
        (of_compiled_python, False),
        (lambda folder, git: changed(folder), True),
        (untracked_and_not_shown, True),
        (assumed_unchanged, True),
        (never_looked_at, True),
        (damaged_index, None),
    ],
)
def test_working_tree(checkout, change, dirty):
    folder, git = checkout
    change(folder, git)
    assert provenance(folder, ())["dirty"] is dirty


def test_no_git_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = provenance(tmp_path, ())
    assert (found["commit"], found["dirty"]) == (None, None)
