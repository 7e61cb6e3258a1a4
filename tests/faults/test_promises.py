"""docs/promises.md names tests that exist, and marks those that `make test` leaves out."""

import ast
import re

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
NAMED = re.findall(r"(⏱ )?`(\w+\.py)::(test_\w+)`", PAGE)


def decorated(tree: ast.Module, name: str) -> str | None:
    """The decorators of a test, and the file's own marks; None if there is no such test."""
    own = [
        ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return " ".join([*own, *map(ast.unparse, node.decorator_list)])
    return None


def test_each_row_names_a_test_that_exists():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what ")]
    assert len(rows) > 30
    assert [
        row[:60] for row in rows if not re.search(r"`\w+\.py::test_\w+` *\|$|`\w+\.py::test_\w+`, .*\|$", row)
    ] == []
    for later, file, name in NAMED:
        folders = (ROOT / "tests" / part for part in (".", "faults", "cluster"))
        path = next((folder / file for folder in folders if (folder / file).exists()), None)
        assert path is not None, file
        marks = decorated(ast.parse(path.read_text(encoding="utf-8")), name)
        assert marks is not None, f"{file}::{name}"
        assert bool(later) == ("mark.faults" in marks), f"{file}::{name} is marked otherwise on the page"
