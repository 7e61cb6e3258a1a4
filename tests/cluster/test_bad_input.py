"""Clusters that cannot be used: one sentence, exit code 4, and nothing was started."""

import socket

import pytest

from tests.conftest import results
from tests.test_plugin import change, run

pytest.importorskip("ray", reason="Ray is not installed; `make test-cluster` installs it and runs these")
pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def refused(checkout, address, *options):
    """The one line of a run that was refused."""
    out = run(checkout, "--prism-cluster", address, *options)
    assert out.ret == pytest.ExitCode.USAGE_ERROR, out.stdout.str() + out.stderr.str()
    (line,) = [line for line in out.errlines if line.startswith("ERROR: ")]
    assert not list(checkout.path.glob("home/adapters/*"))
    return line


def test_a_cluster_that_cannot_be_reached(checkout, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert f"127.0.0.1:{port}: cannot be reached" in refused(checkout, f"127.0.0.1:{port}")
    assert "start it with `ray start --head`" in refused(checkout, f"ray://127.0.0.1:{port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port}: cannot be reached" in refused(checkout, "auto")


def test_a_node_whose_gpu_is_not_there(checkout, made):
    nodes = made({"num_gpus": 1})
    line = refused(checkout, nodes.address)
    assert "Ray counts 1 GPUs, but the NVIDIA driver shows none; start it with `ray start --num-gpus 0`" in line


def test_a_spec_that_is_too_large_for_every_node(checkout, two_nodes):
    change(checkout, "seed     = 42", "seed = 42\nrequires = { memory_gb = 100000 }")
    line = refused(checkout, two_nodes.address)
    assert "phase1/tiny: needs 1e+05 GiB of memory" in line
    assert line.endswith("no node of the cluster has it; add such a node, or leave the spec out with -k")


def test_a_spec_for_a_gpu_where_the_cluster_has_none(checkout, two_nodes):
    change(checkout, "seed     = 42", "seed = 42\nrequires = { vram_gb = 12 }")
    out = run(checkout, "--prism-cluster", two_nodes.address)
    out.assert_outcomes(skipped=3)
    assert "needs a CUDA device with 12 GiB, and there is none" in out.stdout.str()


def test_a_node_with_another_version_of_a_library(checkout, made, tmp_path):
    other = tmp_path / "peft-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
    nodes = made({}, {"env_vars": {"PYTHONPATH": str(tmp_path)}})
    assert "has peft 0.0.1, and this machine has 0.2" in refused(checkout, nodes.address)


def test_a_cluster_of_another_ray(checkout, two_nodes):
    conftest = checkout.path / "conftest.py"
    conftest.write_text(f"{conftest.read_text()}\nimport ray\nray.__version__ = '2.1.0'\n")
    line = refused(checkout, two_nodes.address)
    assert "use the same Python and Ray on all machines" in line


def test_rows_that_cannot_be_read_fail_their_spec_alone(checkout, specs, two_nodes):
    specs(good={}, rowless={"data/train.jsonl": "data/none.jsonl"})
    out = run(checkout, "--prism-cluster", two_nodes.address)
    out.assert_outcomes(passed=2, failed=1, errors=3)
    out.stdout.fnmatch_lines(["*DataError: *none.jsonl*"])
    assert [spec["spec"] for spec in results(checkout)["specs"]] == ["good"]
