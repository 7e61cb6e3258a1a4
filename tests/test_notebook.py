"""The notebook runs from its first cell to its last, on the embedded model and without a network."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "first-adapter.ipynb"


def test_the_committed_notebook_holds_no_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_the_notebook_ends_with_the_report_of_an_own_csv(tmp_path, monkeypatch):
    """Set-up, baseline, training, gate, report, own CSV. Its cell that installs PRISM is left out: PRISM is here."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    shutil.copytree(ROOT / "fixtures" / "models" / "nano-text", tmp_path / "nano-text")
    for name, value in {
        "NOTEBOOK_BASE": str(tmp_path / "nano-text"),
        "PRISM_HOME": str(tmp_path / "store"),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter"),
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "setup" not in cell.metadata.get("tags", [])]
    nbclient.NotebookClient(
        notebook, timeout=600, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [(cell.source.splitlines()[0], output) for cell in code for output in cell.outputs]
    shown = "\n".join(f"{source}\n{output.get('text') or output.get('evalue', '')}" for source, output in outputs)
    assert not any(output.output_type == "error" for _, output in outputs), shown
    reports = [output.data["text/markdown"] for _, output in outputs if "text/markdown" in output.get("data", ())]
    assert len(reports) == 2, shown
    assert "messages" in reports[0]
    assert "tickets" in reports[1]
    assert all("accuracy" in report and "95 %" in report for report in reports)
    assert (tmp_path / "first-adapter" / "reports" / "view.html").is_file()
