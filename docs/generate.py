"""What mkdocs builds beside the written pages: the reference, from the code, and pages that lie elsewhere in the repository.

`mkdocs.yml` names this file as a hook. Written pages link to files as GitHub shows them; here a link to a file that is a
page leads to that page, and a link to any other file becomes its name.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import posixpath
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import typer
import typer.cli

import prism.tasks
from prism.cli import app
from prism.plugin import fixtures, options
from prism.spec import Spec
from prism.tasks import judged_metrics
from prism.verdicts import record

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
INCLUDED = {  # page: the file that it shows
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "measured/gpu.md": "benchmarks/speed/GPU.md",
    "measured/speed.md": "benchmarks/speed/README.md",
    "measured/simulation.md": "benchmarks/simulation/README.md",
    "measured/simulation-results.md": "benchmarks/simulation/RESULTS.md",
    "measured/nano-text.md": "fixtures/models/nano-text/README.md",
    "measured/nano-vision.md": "fixtures/models/nano-vision/README.md",
    "measured/financial-sentiment.md": "fixtures/data/financial-sentiment/README.md",
    "measured/medical-flashcards.md": "fixtures/data/medical-flashcards/README.md",
    "measured/finance-reports.md": "fixtures/data/finance-reports/README.md",
    "measured/radiology-phantoms.md": "fixtures/data/radiology-phantoms/README.md",
    "measured/charts-and-receipts.md": "fixtures/data/charts-and-receipts/README.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]*)(#[^)\s]*)?\)")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
NOTEBOOKS = {"how-to/notebook.md": "docs/notebooks/first-adapter.ipynb"}


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for page, write in GENERATED.items():
        files.append(File.generated(config, page, content=write()))
    for page, source in INCLUDED.items():
        text = _FRONT_MATTER.sub("", (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    for page, source in NOTEBOOKS.items():
        files.append(File.generated(config, page, content=notebook(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    here = page.file.src_uri
    return relink(markdown, here, {file.src_uri for file in files.documentation_pages()}, config.repo_url)


def relink(markdown: str, page: str, pages: set[str], repository: str | None = None) -> str:
    """The text of a page with its links to files of the repository made links of the site."""
    source = (INCLUDED | NOTEBOOKS).get(page, posixpath.join(DOCS, page))
    shown = {file: name for name, file in (INCLUDED | NOTEBOOKS).items()} | {
        posixpath.join(DOCS, name): name for name in pages
    }

    def replaced(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if file in shown:
            return f"[{text}]({posixpath.relpath(shown[file], posixpath.dirname(page) or '.')}{anchor})"
        if not (ROOT / file).exists():
            return link[0]  # mkdocs says that it leads nowhere
        return f"[{text}]({repository.rstrip('/')}/blob/main/{file}{anchor})" if repository else text

    return _LINK.sub(replaced, markdown)


def notebook(path: Path) -> str:
    """A notebook's cells as a page."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    shown = [f"```python\n{text}\n```" if cell["cell_type"] == "code" else text for cell, text in zip(cells, texts)]
    return "\n\n".join([*shown[:1], f"The notebook itself: `{path.relative_to(ROOT).as_posix()}`.", *shown[1:]]) + "\n"


def spec_reference() -> str:
    """Every key of a spec, from the schema that reads it."""
    lines = [
        "# The keys of a spec",
        "",
        (
            "A spec is one TOML file, `benchmarks/specs/PHASE/NAME.toml`: one experiment. A key that is not listed here is an error "
            "that names it. `prism schema` prints the same as JSON Schema, which `prism init` writes beside the specs for editors."
        ),
        "",
        (
            "`[lora]`, `[sft]` and `[generate]` take the keywords of "
            "[LoraConfig](https://huggingface.co/docs/peft/package_reference/lora), "
            "[SFTConfig](https://huggingface.co/docs/trl/sft_trainer) and "
            "[GenerationConfig](https://huggingface.co/docs/transformers/main_classes/text_generation) under their own names."
        ),
    ]
    for heading, model in tables():
        lines += ["", f"## {heading}", ""]
        if model.__doc__ and model is not Spec and model.__doc__ != pydantic.BaseModel.__doc__:
            lines += [" ".join(inspect.cleandoc(model.__doc__).split()), ""]
        cells = [["key", "type", "default", "what it says"], ["---"] * 4]
        cells += [
            [f"`{n}`", _type(field.annotation), _default(field), field.description or _see(n, field)]
            for n, field in keys(model)
        ]
        told = any(row[3] for row in cells[2:])  # where not, the table's own sentence says it
        lines += ['<div class="keys" markdown>', ""]
        lines += [f"| {' | '.join(map(_cell, row if told else row[:3]))} |" for row in cells]
        lines += ["", "</div>"]
    return "\n".join(lines) + "\n"


def keys(model: type[pydantic.BaseModel]) -> list[tuple[str, Any]]:
    """The keys of a table. What a spec takes from the name of its file and folder is no key."""
    own = model is Spec
    return [(n, field) for n, field in model.model_fields.items() if not (own and n in ("phase", "name", "folder"))]


def tables() -> Iterator[tuple[str, type[pydantic.BaseModel]]]:
    """The tables of a spec, each with its heading."""
    yield "The top of the file", Spec
    for name, field in keys(Spec):
        for model in models(field.annotation):
            yield (f"`[{name}.tier1]` and the other tiers" if name == "gate" else f"`[{name}]`"), model
            for inner, nested in keys(model):
                yield from ((f"`[{name}] {inner}`", found) for found in models(nested.annotation))


def models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models(part)


def _type(annotation: Any) -> str:
    """A type as TOML's reader names it."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if any(models(annotation)):
        return "table"
    if origin is typing.Literal:
        return ", ".join(f'`"{value}"`' for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in arguments if part is not type(None))
    names = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
    if origin in (list, tuple):
        return "list of " + {"text": "texts", "whole number": "whole numbers"}.get(_type(arguments[0]), "values")
    return names.get(annotation, "table" if origin is dict else "any value")


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default in (None, {}, []) or isinstance(field.default, pydantic.BaseModel):
        return ""
    return f"`{json.dumps(field.default)}`"


def _see(name: str, field: Any) -> str:
    return f"[its table](#{name})" if any(models(field.annotation)) else ""


def _cell(text: str) -> str:
    """A text as a table's cell; outside of code spans a "<" is no tag."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if n % 2 else part.replace("<", "&lt;") for n, part in enumerate(parts))


class _Group:
    """Takes what `pytest_addoption` adds."""

    def __init__(self) -> None:
        self.added: list[tuple[str, dict[str, Any]]] = []

    def getgroup(self, name: str, description: str) -> _Group:
        return self

    def addoption(self, name: str, **attributes: Any) -> None:
        self.added.append((name, attributes))


def pytest_options() -> list[tuple[str, dict[str, Any]]]:
    group = _Group()
    options.pytest_addoption(group)  # type: ignore[arg-type]
    return group.added


def pytest_reference() -> str:
    """The options of pytest that PRISM adds, and its fixtures."""
    lines = [
        "# Options and fixtures of pytest",
        "",
        (
            "PRISM is a plugin: `-m`, `-k`, `--lf`, `-x`, `-n`, `--junitxml` and all else work as in any run of pytest. Each phase, each "
            "tier and each profile is a mark."
        ),
        "",
        '<div class="keys" markdown>',
        "",
        "| option | value | what it does | default |",
        "|---|---|---|---|",
    ]
    for name, given in pytest_options():
        value = " or ".join(f"`{choice}`" for choice in given.get("choices", ())) or given.get("metavar", "")
        default = given.get("default")
        default = f"`{default}`" if default not in (None, [], False) else ""
        repeated = "" if given.get("action") != "append" or "repeatable" in given["help"] else " (repeatable)"
        lines.append(f"| `{name}` | {value} | {_cell(given['help'] % ())}{repeated} | {default} |")
    lines += [
        "",
        "</div>",
        "",
        "## Fixtures",
        "",
        "A benchmark asks for what it needs; each stage runs once a spec.",
        "",
    ]
    lines += ["| fixture | what it is |", "|---|---|"]
    for name in vars(fixtures):
        if type(found := getattr(fixtures, name)).__name__ == "FixtureFunctionDefinition":
            lines.append(f"| `{name}` | {_cell(inspect.getdoc(found) or '')} |")
    lines += [
        "| `spec`, `threshold` | One spec, and one threshold of it: pytest makes an item of each pair. |",
        "",
        "`run.check(threshold)` decides one threshold: the item passes, fails, or is skipped with a reason.",
    ]
    return "\n".join(lines) + "\n"


def command_reference() -> str:
    """The `prism` command, as typer documents it."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="prism")
    text = typer.cli.get_docs_for_click(obj=command, ctx=context, name="prism")
    whole = re.sub(r"\*\*Commands\*\*:\n+(\* .*\n)+\n*", "", text)  # lists whose sentences are cut to half a line
    return f"{whole.replace('# `prism`', '# The prism command', 1).strip()}\n"


def metric_reference() -> str:
    """The metrics of each task: the names that thresholds take."""
    lines = [
        "# Tasks and their metrics",
        "",
        (
            "A threshold names a metric of its task: `[gate.tier1] accuracy = { floor = 0.8 }`. For a metric marked ↓ lower is "
            "better, so it takes a `ceiling`. Metrics of tier 3 are graded by [a judge](../how-to/judge.md). "
            "`[gate.cost]` takes `peak_memory_gib`, `utilization` and `generation_ratio`."
        ),
    ]
    for module in pkgutil.iter_modules(prism.tasks.__path__):
        task = importlib.import_module(f"prism.tasks.{module.name}")
        if not hasattr(task, "METRICS"):
            continue
        lines += ["", f"## `{module.name}`", "", (inspect.getdoc(task) or "").splitlines()[0], ""]
        if columns := getattr(task, "COLUMNS", ()):
            lines += [f"Columns: {', '.join(f'`{name}`' for name in columns)}.", ""]
        lines += ["| table | metrics |", "|---|---|"]
        metrics = [*task.METRICS, *judged_metrics(getattr(task, "JUDGED", ()))]
        for tier in dict.fromkeys(metric.tier for metric in metrics):
            names = [f"`{m.name}`{' ↓' * (m.direction == 'lower')}" for m in metrics if m.tier == tier]
            lines.append(f"| `[gate.{tier}]` | {', '.join(names)} |")
    return "\n".join(lines) + "\n"


def results_reference() -> str:
    """The layout of results.json, from the classes that write it."""
    lines = [
        "# results.json and JUnit",
        "",
        "`reports/latest/results.json` is for programs. It is one object. Numbers that are unknown are `null`.",
        "",
        "| key | what it is |",
        "|---|---|",
        f"| `schema` | The version of this layout: {record.SCHEMA} |",
        "| `id`, `title`, `command` | The run's name, the title of its report, the command that made it |",
        "| `complete`, `partial` | Whether everything was measured; if not, why |",
        '| `verdict`, `reason` | `"pass"` or `"fail"`, and why, in one sentence |',
        "| `records` | A list: one object for each metric of each spec, [below](#record) |",
        "| `cost` | A list: times, memory and counts of each spec |",
        "| `specs` | A list: what only the reports show of each spec |",
        "| `provenance` | Commit, machine, versions |",
    ]
    for found in (record.Record, record.Score, record.Control, record.Verdict):
        lines += ["", f"## {found.__name__}", "", " ".join(inspect.cleandoc(found.__doc__ or "").split()), ""]
        lines += ["| key | type | what it is |", "|---|---|---|"]
        for line in inspect.getsource(found).splitlines():
            if key := re.match(r"    (\w+): ([^=#]+?)(?: = [^#]*)?(?:  # (.*))?$", line):
                kind = " or ".join(f"`{part}`" for part in key[2].split(" | "))
                lines.append(f"| `{key[1]}` | {kind} | {_cell(key[3] or '')} |")
    lines += [
        "",
        "## JUnit",
        "",
        "`--junitxml=FILE` writes a test case for each threshold, with these properties:",
        "",
        "| property | what it is |",
        "|---|---|",
        "| `spec`, `threshold` | `phase1/nano`, `tier1-accuracy-floor` |",
        "| `metric`, `state`, `n` | The metric, the verdict's state, the samples that were scored |",
        "| `baseline`, `tuned`, `gain`, `gain_low`, `gain_high`, `p` | The values, the gain's 95 % interval, the test's p |",
        "| `reference`, `loss_ci`, `loss_p` | With an accepted run: its value, and the loss against it |",
        "",
        "## The files beside it",
        "",
        (
            "`report.md`, `report.html`, `samples/PHASE-SPEC.jsonl` (question, reference, baseline's and tuned answer of each "
            "held-out sample), `scores/PHASE-SPEC.json` (what `prism compare` and `prism accept` read: hashes of samples and what each "
            "metric counts of them, no text), and `seal.json` with the checksums of them all."
        ),
    ]
    return "\n".join(lines) + "\n"


GENERATED = {
    "reference/spec.md": spec_reference,
    "reference/metrics.md": metric_reference,
    "reference/pytest.md": pytest_reference,
    "reference/prism.md": command_reference,
    "reference/results.md": results_reference,
}
