"""The reference is made from the code and leaves nothing out; the site is built strictly and loads nothing from elsewhere."""

import dataclasses
import re
import subprocess
import sys

import pytest
import typer

from docs import generate
from prism.cli import app
from prism.metrics import Metric
from prism.spec import Spec
from prism.verdicts import record
from tests.conftest import ROOT


def rows(text, column=0):
    """The first code span in a column of each row of a page's tables."""
    cells = [line.strip("| ").split(" | ")[column] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_key_of_a_spec_is_in_its_reference():
    text = generate.spec_reference()
    seen = []

    def visit(model):
        seen.append(model)
        for name, field in generate.keys(model):
            assert f"| `{name}` | " in text
            for inner in generate.models(field.annotation):
                visit(inner)

    visit(Spec)
    assert len(seen) == text.count("\n## ")
    assert text.count("\n| `") == sum(len(generate.keys(model)) for model in seen)
    assert not {"folder", "phase"} & set(rows(text))


def test_types_and_defaults_are_said_as_toml_has_them():
    text = generate.spec_reference()
    assert "| `load_in_4bit` | `true` or `false` | `false` |" in text
    assert "| `train_rows` | whole number |  | At most" in text
    assert "| `max_megapixels` | number | `50` | Read from the header, before decoding. |" in text
    assert "| `size` | whole number or list of whole numbers |" in text
    assert '| `fit` | `"pad"`, `"stretch"` | `"pad"` |' in text


def test_every_option_and_fixture_of_pytest_is_in_its_reference():
    text = generate.pytest_reference()
    for name, given in generate.pytest_options():
        assert f"| `{name}" in text
        assert given["help"].replace("%%", "%").replace("<", "&lt;") in text
    assert "5 % false alarms" in text
    assert "DIR/&lt;last part of model_name>" in text, "a browser would take it for a tag"
    assert {"spec", "threshold", "baseline", "adapter", "tuned", "run"} <= set(rows(text))


def test_every_command_and_option_of_prism_is_in_its_reference():
    text = generate.command_reference()
    known = typer.main.get_command(app).commands
    groups = {name: group.commands for name, group in known.items() if hasattr(group, "commands")}
    for name, command in known.items() | {
        (f"{group} {name}", each) for group, commands in groups.items() for name, each in commands.items()
    }:
        part = text.split(f"# `prism {name}`\n")[1].split("\n##")[0]
        options = [option.opts[0] for option in command.params if option.opts[0].startswith("--")]
        assert all(f"* `{option}" in part for option in options)
    assert "**Commands**" not in text, "a list whose sentences are cut"


def test_every_metric_of_every_task_is_in_its_reference():
    from prism.tasks import classify, finance_qa

    text = generate.metric_reference()
    for task in (classify, finance_qa):
        part = text.split(f"## `{task.__name__.rpartition('.')[2]}`")[1].split("\n## ")[0]
        assert all(isinstance(metric, Metric) and f"`{metric.name}`" in part for metric in task.METRICS)
    assert "`unparsable_rate` ↓" in text


def test_every_key_of_results_json_is_in_its_reference():
    text = generate.results_reference()
    run = record.Run("id", (), True, "", "pass", "", "", {})
    assert set(record.run_to_json(run)) <= set(rows(text.split("\n## ")[0]))
    for part in (record.Record, record.Score, record.Control, record.Verdict):
        section = text.split(f"\n## {part.__name__}\n")[1].split("\n## ")[0]
        names = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert names == [field.name for field in dataclasses.fields(part)]


def test_a_link_to_a_file_leads_to_its_page_or_becomes_its_name():
    pages = {"how-to/ci.md", "index.md", "contributing.md"}
    text = "[a](../../CONTRIBUTING.md#where) [b](../../Makefile) [c](ci.md) [d](https://x.y/z) [e](gone.md) ![f](../img/demo.png)"
    linked = "[a](../contributing.md#where) b [c](ci.md) [d](https://x.y/z) [e](gone.md) ![f](../img/demo.png)"
    assert generate.relink(text, "how-to/ci.md", pages) == linked
    assert "[b](https://host/repo/blob/main/Makefile)" in generate.relink(
        text, "how-to/ci.md", pages, "https://host/repo/"
    )
    assert (
        generate.relink("[RESULTS](RESULTS.md)", "measured/simulation.md", pages) == "[RESULTS](simulation-results.md)"
    )


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("material", reason="the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {
        path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in tmp_path.glob("site/**/*.html")
    }
    assert {"index.html", "reference/spec.html", "security.html", "measured/gpu.html"} <= pages.keys()
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc(?:set)?=\"?([^\" >]+)", page)
        loaded += re.findall(r"<link\b(?![^>]*rel=\"?canonical)[^>]*\bhref=\"?([^\" >]+)", page)
        assert not [url for url in loaded if re.match(r"(\w+:)?//", url)], name
        assert 'class="mermaid"' not in page, f"{name}: diagrams would load a script from elsewhere"
    assert not re.findall(r"url\(.?https?:", "".join(css.read_text() for css in tmp_path.glob("site/**/*.css")))
