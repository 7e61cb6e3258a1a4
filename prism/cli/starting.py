"""Commands that begin a project: init writes its first files, schema prints what a spec may say."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from prism.cli import starter
from prism.cli.app import app, exit_on_error
from prism.cli.drafting import SAMPLE, Given, draft
from prism.errors import SpecError


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The project.")] = Path("."),
    model: Annotated[str | None, typer.Option(help="The base: a folder, or a hub id.")] = None,
    adapter: Annotated[str | None, typer.Option(help="A finished PEFT adapter to gate: a folder, or a hub id.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows: .csv, .jsonl, .parquet, or a folder with train and test.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classify, answer, or a task of PRISM's; by default inferred.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The question as the adapter was trained, with {column}s.")] = None,
    question: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the question.")] = None,
    answer: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the right answer.")] = None,
    image: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of the picture, if any.")] = None,
) -> None:
    """Write a project's first spec, its benchmark and a CI workflow; say what was inferred, and from where."""
    with exit_on_error():
        root = folder.expanduser().resolve()
        given = Given(model, adapter, data, task, prompt, question, answer, image)
        files, told, spec = first_files(root, given)
        if (root / spec).exists():
            raise SpecError(f"{root / spec}: exists, and init overwrites nothing; edit that spec, or delete it")
        try:
            written = [name for name, text in files.items() if _write(root / name, text)]
        except OSError as error:
            raise SpecError(f"{root}: cannot be written to ({error.strerror}); name another folder") from None
    for name in files:
        typer.echo(f"{'written' if name in written else 'kept as it was'}: {name}")
    typer.echo(f"\n{spec}:")
    width = max(map(len, dict(told)))
    for what, why in told:
        typer.echo(f"  {what:<{width}}  {why}")
    typer.echo(f"\nnext: {f'cd {folder} && ' if folder != Path('.') else ''}pytest benchmarks -m {spec.parent.name}")


@app.command()
def schema() -> None:
    """Print the JSON schema of a spec, for editors."""
    typer.echo(spec_schema(), nl=False)


def spec_schema() -> str:
    """The JSON schema of a spec file. What comes from the file's own name and folder is not part of it."""
    from prism.spec import Spec

    found = Spec.model_json_schema()
    for name in ("phase", "name", "folder"):
        del found["properties"][name]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A spec of PRISM", "description": ""}
    head["description"] = "One experiment: rows, model, adapter, thresholds. Other rules are checked as it is read."
    return json.dumps({**found, **head}, indent=1) + "\n"


def _write(path: Path, text: str) -> bool:
    """Write a file that does not exist yet; False if it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def first_files(root: Path, given: Given) -> tuple[dict[Path, str], list[tuple[str, str]], Path]:
    """The files to write by their path from the root, what was inferred and from where, and the path of the spec.

    Raises PrismError if the spec could not be run: nothing is written yet.
    """
    files: dict[Path, str] = {}
    if given.data is None:
        files[SAMPLE] = starter.sample_rows()
    with tempfile.TemporaryDirectory() as scratch:
        sample = Path(scratch, SAMPLE.name)
        sample.write_text(starter.sample_rows(), encoding="utf-8")
        spec, text, told = draft(root, given, sample)
    phase = spec.parent.name
    files |= {
        spec: text,
        Path("benchmarks", "specs", "schema.json"): spec_schema(),
        Path("benchmarks", f"test_{phase}_thresholds.py"): starter.BENCHMARK.format(phase=phase),
        Path(".github", "workflows", "prism.yml"): starter.WORKFLOW,
        Path("reports", ".gitignore"): starter.IGNORED,
    }
    settings = _pytest_settings(root)
    if settings is None:
        files[Path("pytest.ini")] = starter.PYTEST_INI
    elif "no:deepeval" not in (root / settings).read_text(encoding="utf-8"):
        told.append(
            ("pytest", f"add to addopts in {settings}: {starter.PLUGINS} (they slow the start, or retry a gate)")
        )
    if not any(entry.value == "pytest_prism" for entry in entry_points(group="pytest11")):
        if (root / "conftest.py").exists():
            told.append(("pytest", f"PRISM is not installed; add to conftest.py: {starter.CONFTEST.strip()}"))
        else:
            files[Path("conftest.py")] = starter.CONFTEST
    return files, told, spec


def _pytest_settings(root: Path) -> str | None:
    """The file with the project's settings of pytest, in pytest's order; None if there is none."""
    tables = {"pytest.toml": "", ".pytest.toml": "", "pytest.ini": "", ".pytest.ini": ""}
    tables |= {"pyproject.toml": "[tool.pytest", "tox.ini": "[pytest]", "setup.cfg": "[tool:pytest]"}
    for name, table in tables.items():
        if (root / name).is_file() and table in (root / name).read_text(encoding="utf-8"):
            return name
    return None
