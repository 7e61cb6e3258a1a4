"""Wherever adapters and answers are made, they have the same bytes, and a run finds them as ever."""

import json
import shutil
import socket

import pytest

from tests.cluster.conftest import files, notes
from tests.conftest import SPEC, results, write_spec
from tests.test_plugin import run

pytest.importorskip("ray", reason="Ray is not installed; `make test-cluster` installs it and runs these")
pytestmark = [pytest.mark.slow, pytest.mark.cluster]

TWO = {"one": {}, "two": {"learning_rate = 1e-2": "learning_rate = 2e-2"}}
EACH = {"passed": 4, "failed": 2}  # the gains of .9 are out of reach


def measured(checkout):
    """What a run found of each spec, without times and machines."""
    return [
        [record[key] for key in ("spec", "metric", "n", "baseline", "tuned", "gain", "seeds", "controls", "verdicts")]
        for record in results(checkout)["records"]
        if record["tier"] != "cost"
    ]


def test_local_workers_one_node_and_two_nodes_give_the_same_bytes(checkout, specs, two_nodes, made, monkeypatch):
    specs(**TWO)
    one_node = made({})
    ways = {
        "local": (),
        "workers": ("-n", "2"),
        "one-node": ("--prism-cluster", one_node.address),
        "two-nodes": ("--prism-cluster", two_nodes.address),
    }
    found, said = {}, {}
    for name, options in ways.items():
        out = run(checkout, "--prism-seeds", "2", "--prism-home", name, *options)
        out.assert_outcomes(**EACH)
        found[name], said[name] = files(checkout.path / name), measured(checkout)
    assert len(found["local"]) == 4 + 4 + 2  # adapters, their answers, one baseline and its likelihoods
    assert all(each == found["local"] for each in found.values())
    assert all(each == said["local"] for each in said.values())


@pytest.mark.usefixtures("new_interpreter")
def test_baselines_are_made_once_and_what_is_cached_needs_no_ray(checkout, specs, two_nodes):
    specs(**TWO)
    out = run(checkout, "--prism-cluster", two_nodes.address)
    out.assert_outcomes(**EACH)
    told = out.stderr.str() + out.stdout.str()
    assert "cluster of 3 nodes, 2 cores, 0 GPUs; 1 thread a task; the store is shared" in told
    assert "3 tasks for the cluster" in told  # two adapters and the baseline of both
    for stage in ("answers, baseline", "training, seed 42", "answers, tuned, seed 42"):
        assert f"{stage}: " in told
    assert told.count("answers, baseline: ") == 1
    costs = results(checkout)["cost"]
    assert all(machine.endswith("1 thread") for cost in costs for machine in cost["machine"].values())
    assert [cost["cached"] for cost in costs] == [[], []]  # this run made them, on whichever machine
    conftest = checkout.path / "conftest.py"
    told = "def pytest_unconfigure():\n    import pathlib, sys\n    pathlib.Path('loaded').write_text(' '.join(sys.modules))\n"
    conftest.write_text(f"{conftest.read_text()}\n\n{told}")
    run(checkout, "--prism-cluster", two_nodes.address).assert_outcomes(**EACH)
    loaded = {*(checkout.path / "loaded").read_text().split()}
    assert "prism.cluster.running" in loaded
    assert not loaded & {"ray", "torch", "transformers", "datasets"}


def test_a_node_that_sees_neither_store_nor_checkout_is_sent_them(checkout, specs, tiny, rows, made, monkeypatch):
    """What nodes see is changed where the driver asks them; what travels then is real."""
    (checkout.path / "fixtures").mkdir()
    shutil.copytree(tiny, checkout.path / "fixtures" / "tiny")
    specs()
    text = SPEC.format(data="data/train.jsonl", model="fixtures/tiny")
    write_spec(checkout.path, text, "tiny")
    run(checkout, "--prism-home", "local", "--prism-seeds", "2")
    conftest = checkout.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + "\nfrom prism.cluster import joining\njoining.write_token = lambda home: None\n"
        + "joining.source_tree = lambda root: 'another'\n"
    )
    there = checkout.path / "theirs"
    nodes = made({"env_vars": {"PRISM_HOME": str(there)}}, {"env_vars": {"PRISM_HOME": str(there)}})
    elsewhere = ("--prism-cluster", nodes.address, "--prism-home", "here", "--prism-seeds", "2")
    out = run(checkout, *elsewhere)
    out.assert_outcomes(passed=2, failed=1)
    assert "nodes do not see the store, so artifacts travel" in out.stderr.str() + out.stdout.str()
    assert files(checkout.path / "here") == files(checkout.path / "local") == files(there)
    assert [note["steps"] for note in notes(checkout.path / "here")] == [24, 24]

    for folder in (there, checkout.path / "here" / "predictions"):  # now the adapters are sent to the nodes
        shutil.rmtree(folder)
    out = run(checkout, *elsewhere)
    out.assert_outcomes(passed=2, failed=1)
    assert "training, seed" not in (out.stderr.str() + out.stdout.str())
    assert files(checkout.path / "here") == files(checkout.path / "local")
    assert not list(checkout.path.glob("here/*/*.partial"))


def test_a_store_at_a_url_is_the_same_for_all_nodes(checkout, specs, made):
    specs(tiny={})
    run(checkout, "--prism-home", "local")
    own = [{"env_vars": {"PRISM_CACHE": str(checkout.path / f"cache-{n}")}} for n in range(2)]
    url = f"file://{checkout.path}/remote"
    out = run(checkout, "--prism-cluster", made(*own).address, "--prism-home", url, "--prism-cache", "here")
    out.assert_outcomes(passed=2, failed=1)
    (here,) = (checkout.path / "here").iterdir()
    assert files(here) == files(checkout.path / "local")
    (adapter,) = (checkout.path / "remote" / "adapters").glob("*.tar")
    assert f"adapters/{adapter.stem}" in files(here), "a node has offered it to all"


def test_a_retraining_happens_on_the_cluster_and_once(checkout, specs, two_nodes):
    specs(tiny={})
    run(checkout, "--prism-cluster", two_nodes.address)
    (folder,) = (checkout.path / "home" / "adapters").glob("*/manifest.json")
    before, was = folder.stat().st_mtime_ns, json.loads(folder.read_text(encoding="utf-8"))["files"]
    out = run(checkout, "--prism-cluster", two_nodes.address, "--prism-retrain")
    out.assert_outcomes(passed=2, failed=1)
    assert (out.stderr.str() + out.stdout.str()).count("training, seed 42: ") == 1
    assert folder.stat().st_mtime_ns > before
    assert json.loads(folder.read_text(encoding="utf-8"))["files"] == was


def test_a_driver_may_be_no_node(checkout, specs, made):
    """Ray's client, through one port of the head."""
    specs(tiny={})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made({}, client_port=port)
    out = run(checkout, "--prism-cluster", f"ray://127.0.0.1:{port}")
    out.assert_outcomes(passed=2, failed=1)
    assert "training, seed 42: " in out.stderr.str() + out.stdout.str()
