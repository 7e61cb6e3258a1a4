"""What README shows is what the repository holds."""

import re

from prism.spec import load_spec
from tests.conftest import ROOT, write_spec

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_phase_shown_whole_is_the_phase():
    assert (ROOT / "benchmarks" / "test_phase1_financial_sentiment.py").read_text(encoding="utf-8") in blocks("python")
    assert (ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml").read_text(encoding="utf-8") in blocks("toml")


def test_bring_your_own_csv_is_a_good_spec_of_at_most_ten_lines(tmp_path):
    own = next(block for block in blocks("toml") if "Our desk" in block)
    assert len(own.splitlines()) <= 10
    assert load_spec(write_spec(tmp_path, own, "mine")).data.columns == {"tweet": "headline", "sentiment": "tone"}


def test_every_spec_is_in_the_table_of_phases():
    for path in (ROOT / "benchmarks" / "specs").glob("phase*/*.toml"):
        row = next(line for line in README.splitlines() if line.startswith(f"| {path.parent.name[5:]} |"))
        assert f"`{path.stem}`" in row
