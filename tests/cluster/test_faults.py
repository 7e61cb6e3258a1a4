"""Nodes, tasks and drivers that end in the middle: nothing finished is lost, and the next run goes on."""

import shutil
import signal

import psutil
import pytest

from tests.cluster.conftest import PATIENCE, files, notes, read_until, stop_here, wait_until
from tests.conftest import results
from tests.test_plugin import run, start

pytest.importorskip("ray", reason="Ray is not installed; `make test-cluster` installs it and runs these")
pytestmark = [pytest.mark.slow, pytest.mark.cluster]

LONG = {"num_train_epochs = 2": "num_train_epochs = 40"}  # 480 steps, a checkpoint each 48; the gain of .9 is reached


def checkpoint(checkout):
    """The digest of the adapter whose training has written a checkpoint; None before."""
    found = checkout.path.glob("home/adapters/*.partial/trainer/*/epoch_start.pth")
    return next((path.parent.parent.parent.stem for path in found), None)


def printed(out):
    return out.stdout.str() + out.stderr.str()


def test_a_killed_node_costs_no_finished_work_and_at_most_a_checkpoint_of_the_other(checkout, specs, made):
    specs(tiny=LONG)
    run(checkout, "--prism-home", "whole")
    nodes = made({}, {})
    process = start(checkout, "--prism-cluster", nodes.address)
    try:
        adapter = wait_until(lambda: checkpoint(checkout), process)
        node, _ = nodes.suspend(f"{adapter}.lock")  # until the baseline is there, however slow the other node is
        finished = wait_until(lambda: files(checkout.path / "home"), process)
        nodes.kill(node)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        stop_here(process)
    assert process.returncode == pytest.ExitCode.OK, output
    assert "phase1/tiny seed 42: tried again, because its node or process was lost" in output
    assert "training, seed 42: " in output
    assert files(checkout.path / "home") == files(checkout.path / "whole")
    assert finished, "the baseline, by the other node"
    assert finished.items() <= files(checkout.path / "home").items()
    (note,) = notes(checkout.path / "home")
    assert 48 <= note["resumed_at"] < 480


def test_a_poisoned_task_fails_alone_with_its_reason_on_its_items(checkout, specs, two_nodes):
    specs(good={}, poisoned={'["q_proj", "v_proj", "up_proj"]': '["no_such_layer"]'})
    out = run(checkout, "--prism-cluster", two_nodes.address)
    out.assert_outcomes(passed=2, failed=1, errors=3)
    assert printed(out).count("no_such_layer") >= 3
    out.stdout.fnmatch_lines(["*ClusterError: phase1/poisoned seed 42, on *no_such_layer*"])
    assert printed(out).count("phase1/poisoned: loading") == 1, "it is tried once, and not again by the driver"
    assert [spec["spec"] for spec in results(checkout)["specs"]] == ["good"]


def test_a_driver_that_dies_leaves_nothing_running_and_the_next_run_goes_on(checkout, specs, made):
    specs(tiny=LONG)
    run(checkout, "--prism-home", "whole")
    nodes = made({}, {})
    process = start(checkout, "--prism-cluster", nodes.address)
    try:
        wait_until(lambda: checkpoint(checkout), process)
        assert nodes.working()
    finally:
        stop_here(process)
    wait_until(lambda: not nodes.working())
    run(checkout, "--prism-cluster", nodes.address).assert_outcomes(passed=3)
    assert files(checkout.path / "home") == files(checkout.path / "whole")
    assert [note["resumed_at"] >= 48 for note in notes(checkout.path / "home")] == [True]


@pytest.mark.parametrize("by", ["SIGINT", "SIGTERM"])
def test_ctrl_c_cancels_what_runs_and_keeps_what_is_done(checkout, specs, two_nodes, by):
    specs(tiny={"num_train_epochs = 2": "num_train_epochs = 120"})
    process = start(checkout, "--prism-cluster", two_nodes.address)
    try:
        adapter = wait_until(lambda: checkpoint(checkout), process)
        _, training = two_nodes.suspend(f"{adapter}.lock")  # until the run is about to cancel, however slow it is
        process.send_signal(getattr(signal, by))
        output = read_until(process, "the next run reuses the finished work in")
        training.resume()
        output += process.stdout.read()
        process.wait(PATIENCE)
    finally:
        stop_here(process)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "Traceback" not in output
    wait_until(lambda: not two_nodes.working())
    run(checkout, "--prism-cluster", two_nodes.address).assert_outcomes(passed=3)
    assert [note["resumed_at"] >= 48 for note in notes(checkout.path / "home")] == [True]


def test_a_task_whose_process_dies_each_time_fails_alone(checkout, specs, two_nodes):
    """As where the system kills what takes too much memory. A task module kills the process that trains with it."""
    specs(good={}, deadly={'task     = "financial_sentiment"': 'task     = "./deadly.py"'})
    (checkout.path / "benchmarks" / "specs" / "phase1" / "deadly.py").write_text(
        '"""Financial sentiment, but a process of a cluster dies of it."""\n'
        "import os, signal, sys\n\n"
        "from prism.tasks.financial_sentiment import *\n"
        "from prism.tasks.financial_sentiment import COLUMNS, METRICS, VERSION, example, parse\n\n"
        'if "ray" in sys.modules and os.environ.get("OMP_NUM_THREADS") and "pytest" not in sys.modules:\n'
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    out = run(checkout, "--prism-cluster", two_nodes.address)
    out.assert_outcomes(passed=2, failed=1, errors=3)
    out.stdout.fnmatch_lines(["*ClusterError: phase1/deadly *: its process was lost 3 times*"])


def test_two_clusters_on_one_store_make_each_artifact_once(checkout, specs, made):
    specs(tiny=LONG)
    first, second = made({}, {}), made({})
    processes = [start(checkout, "--prism-cluster", first.address)]
    try:
        adapter = wait_until(lambda: checkpoint(checkout), processes[0])
        _, training = first.suspend(f"{adapter}.lock")  # until the other cluster wants the same
        processes.append(start(checkout, "--prism-cluster", second.address))
        told = read_until(processes[1], f"waiting for adapters/{adapter[:8]}, which another process makes")
        training.resume()
        outputs = [processes[0].communicate(timeout=PATIENCE)[0], told + processes[1].stdout.read()]
    finally:
        for process in processes:
            stop_here(process)
    assert all("3 passed" in output for output in outputs), outputs
    assert sum(output.count("training, seed 42: ") for output in outputs) == 1
    assert len(notes(checkout.path / "home")) == 1


def test_what_a_killed_machine_held_does_not_block(checkout, specs, two_nodes):
    """A lock file and a partial folder without a process, as a dead node leaves them."""
    specs(tiny={})
    run(checkout)
    (adapter,) = [path for path in (checkout.path / "home" / "adapters").iterdir() if path.is_dir()]
    shutil.rmtree(adapter)
    adapter.with_suffix(".lock").touch()
    adapter.with_suffix(".partial").mkdir()
    run(checkout, "--prism-cluster", two_nodes.address).assert_outcomes(passed=2, failed=1)
    assert adapter.is_dir()
    assert not [each for each in psutil.Process().children() if each.status() == psutil.STATUS_STOPPED]
