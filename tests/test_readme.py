"""What README shows is what the repository holds."""

import re
import tomllib

from prism.spec import load_spec
from tests.conftest import ROOT, write_spec

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_phase_shown_whole_is_the_phase():
    assert (ROOT / "benchmarks" / "test_phase1_financial_sentiment.py").read_text(encoding="utf-8") in blocks("python")
    assert (ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml").read_text(encoding="utf-8") in blocks("toml")


def test_the_specs_to_copy_are_good_ones_of_at_most_twelve_lines(tmp_path):
    own, ours = (next(block for block in blocks("toml") if title in block) for title in ("customers", "Our adapter"))
    assert len(own.splitlines()) <= 12
    assert len(ours.splitlines()) <= 12
    assert load_spec(write_spec(tmp_path, own, "mine")).classify.labels == ["refund", "complaint", "praise"]
    assert not load_spec(write_spec(tmp_path, ours, "ours")).has_training_rows


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
