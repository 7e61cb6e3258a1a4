"""What README and the pages of docs show is what the repository holds: commands, options, keys, specs, links."""

import json
import re
import shlex
import tomllib

import pytest
import typer

from docs import generate
from prism.cli import app
from prism.spec import Spec, load_spec
from tests.conftest import ROOT, write_spec

README = (ROOT / "README.md").read_text(encoding="utf-8")
WRITTEN = sorted(ROOT.glob("docs/**/*.md"))
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *WRITTEN)
}
NOTEBOOK = json.loads((ROOT / "docs" / "notebooks" / "first-adapter.ipynb").read_text(encoding="utf-8"))
PAGES["docs/notebooks/first-adapter.ipynb"] = "\n".join(
    f"```\n{source}\n```" if cell["cell_type"] == "code" else source
    for cell in NOTEBOOK["cells"]
    for source in ["".join(cell["source"])]
)
COMMAND = typer.main.get_command(app)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def commands(page, program):
    """The lines of code blocks and the code spans of a page that call a program, without their comments."""
    text = PAGES[page]
    lines = [
        line
        for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in [*lines, *(" ".join(span.split()) for span in spans)]:
        said = re.sub(r"^(- run: |\$ |!|[A-Z_]+=\S+ )+", "", line.strip()).partition(" #")[0].strip()
        if said.split(" ")[0] == program and " " in said:
            yield said


def slug(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_commands_are_found_where_pages_show_them():
    assert "prism view RUN OTHER --out samples.html" in commands("docs/how-to/show.md", "prism")
    assert "make bench" in commands("README.md", "make")
    assert "prism init --model {BASE}" in commands("docs/notebooks/first-adapter.ipynb", "prism")
    assert 'prism init --prompt "Sort this message: {text}"' in commands("docs/how-to/my-adapter.md", "prism")


def test_readme_is_short():
    assert len(README.splitlines()) <= 155


def test_readme_lists_every_spec():
    listed = {
        row[0]: set(re.findall(r"`([^`]+)`", row[1]))
        for row in re.findall(r"^\| (\d) \|.*\| ([^|]+) \|$", README, re.MULTILINE)
    }
    for phase in (ROOT / "benchmarks" / "specs").glob("phase*"):
        assert listed[phase.name.removeprefix("phase")] == {path.stem for path in phase.glob("*.toml")}, phase.name


def test_the_phase_shown_whole_is_the_phase():
    page = "docs/how-to/my-task.md"
    assert (ROOT / "benchmarks" / "test_phase1_financial_sentiment.py").read_text(encoding="utf-8") in blocks(
        page, "python"
    )
    assert (ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml").read_text(encoding="utf-8") in blocks(page, "toml")


def test_the_specs_to_copy_are_good_ones_of_at_most_twelve_lines(tmp_path):
    (own,) = (block for block in blocks("docs/how-to/my-csv.md", "toml") if "customers" in block)
    (ours,) = blocks("README.md", "toml")
    assert ours in blocks("docs/how-to/my-adapter.md", "toml")
    assert len(own.splitlines()) <= 12
    assert len(ours.splitlines()) <= 12
    assert load_spec(write_spec(tmp_path, own, "mine")).classify.labels == ["refund", "complaint", "praise"]
    assert not load_spec(write_spec(tmp_path, ours, "ours")).has_training_rows


@pytest.mark.parametrize("page", PAGES)
def test_every_prism_command_and_its_options_exist(page):
    for said in commands(page, "prism"):
        words = shlex.split(re.sub(r"[|<>;…].*", "", said))
        if words[1].startswith("-"):
            continue
        assert words[1] in COMMAND.commands, said
        command = COMMAND.commands[words[1]]
        if hasattr(command, "commands"):  # a group: prism store ls
            assert words[2] in command.commands, said
            command = command.commands[words[2]]
        known = {name for option in command.params for name in option.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, said


@pytest.mark.parametrize("page", PAGES)
def test_every_option_of_pytest_exists(page):
    known = {name for name, _ in generate.pytest_options()}
    assert set(re.findall(r"--prism-[a-z]+(?:-[a-z]+)*", PAGES[page])) <= known


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_and_every_module_that_is_run_exists(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for said in commands(page, "make"):
        assert {word for word in said.split()[1:] if "=" not in word} <= targets, said
    for module in re.findall(r"python -m ((?:prism|benchmarks|fixtures)[\w.]*)", PAGES[page]):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@pytest.mark.parametrize("page", PAGES)
def test_every_key_of_a_spec_exists(page):
    fields = dict(generate.keys(Spec))
    named = {
        name: [dict(generate.keys(model)) for model in generate.models(field.annotation)]
        for name, field in fields.items()
    }

    def require(table, key, where):
        assert table in fields, where
        assert not named[table] or table == "gate" or any(key in keys for keys in named[table]), where

    for table, key in re.findall(r"`\[(\w+)\] (\w+)", PAGES[page]):
        require(table, key, f"[{table}] {key}")
    for block in blocks(page, "toml"):
        for table, content in tomllib.loads(block).items():
            assert table in fields, block
            for key in content if isinstance(content, dict) else ():
                require(table, key, block)


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".md")])
def test_every_link_leads_to_a_file_and_its_heading(page):
    made = {f"docs/{name}": name for name in generate.GENERATED}
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", PAGES[page]):
        path = (ROOT / page).parent.joinpath(target).resolve() if target else ROOT / page
        name = path.relative_to(ROOT).as_posix()
        text = generate.GENERATED[made[name]]() if name in made else path.read_text(encoding="utf-8") if anchor else ""
        assert name in made or path.exists(), target
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)", text, re.MULTILINE)), f"{target}#{anchor}"


def test_contributing_maps_the_code():
    """Every room of prism/ is in the table, in the order that the import contract holds."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    mapped = [name for row in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", row)]
    rooms = {
        path.stem for path in (ROOT / "prism").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(mapped) == rooms - {"__init__", "__main__"}
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    layers = [re.findall(r"(?<![(\w])\w+(?![)\w])", layer) for layer in reversed(contract["layers"])]
    place = {name: n for n, layer in enumerate(layers) for name in layer}
    assert [place[name] for name in mapped] == sorted(place[name] for name in mapped)
