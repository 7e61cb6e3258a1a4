"""Two nodes of a Ray cluster on loopback, each with one core. `make test-cluster` installs Ray; without it each module is skipped."""

import json
import os
import signal
import time

import psutil
import pytest

from tests.conftest import SPEC, write_rows, write_spec

SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
# A lost node is noticed after half a minute, and one that is slow is not taken for lost.
NOTICE = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 30}
PATIENCE = 900  # seconds for what comes in one where the machine does nothing else


class Nodes:
    """A cluster whose nodes tests may kill. The head takes no task, so that the tests' own process survives each kill."""

    def __init__(self, *nodes, client_port=None):
        from ray.cluster_utils import Cluster

        os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # for the head's server for clients: ray-project/ray#63202
        head_node = {"num_cpus": 0, "ray_client_server_port": client_port, "_system_config": NOTICE, **SMALL}
        self.cluster = Cluster(initialize_head=True, head_node_args=head_node)
        self.nodes = [self.add(**node) for node in nodes]
        self.address = self.cluster.address

    def add(self, **node):
        given = {"num_cpus": 1, "object_store_memory": SMALL["object_store_memory"], **node}
        return self.cluster.add_node(**given)

    def kill(self, node):
        """SIGKILL for the node and all that runs on it, as when its power is cut."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in (raylet, *raylet.children(recursive=True)):
            process.send_signal(signal.SIGKILL)
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self.cluster.worker_nodes.discard(node)

    def suspend(self, lock):
        """Stop the process that has this lock file open, so that it cannot end too soon; returns its node and itself."""
        for node in self.nodes:
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for process in raylet.children(recursive=True):
                if any(file.path.endswith(lock) for file in process.open_files()):
                    process.suspend()
                    return node, process
        raise AssertionError(f"no process holds {lock}")

    def working(self):
        """The processes of nodes that have loaded PyTorch's libraries: those that train or answer."""
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in self.nodes]
        return [each for raylet in raylets if raylet.is_running() for each in raylet.children(True) if _computes(each)]

    def stop(self):
        self.cluster.shutdown()


def _computes(process):
    try:
        return process.memory_info().rss > 250 * 2**20  # Ray's own have a quarter of that
    except psutil.Error:
        return False


@pytest.fixture(scope="session")
def two_nodes():
    nodes = Nodes({}, {})
    yield nodes
    nodes.stop()


@pytest.fixture
def made():
    """Make clusters of a test's own, which end with it."""
    started = []

    def make(*nodes, **options):
        started.append(Nodes(*nodes, **options))
        return started[-1]

    yield make
    for each in started:
        each.stop()


@pytest.fixture
def specs(checkout, tiny, rows):
    """A function that writes specs into the checkout, by the changes of each to the tiny one."""

    def write(**changes):
        data = write_rows(checkout.path / "data" / "train.jsonl", rows)
        (checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml").unlink(missing_ok=True)
        for name, replaced in changes.items():
            text = SPEC.format(data=data, model=tiny)
            for old, new in replaced.items():
                assert old in text
                text = text.replace(old, new)
            write_spec(checkout.path, text, name)

    return write


def files(home):
    """The checksums of every adapter's and every answer's files, by artifact."""
    found = {}
    for kind in ("adapters", "predictions"):
        for manifest in home.glob(f"{kind}/*/manifest.json"):
            found[f"{kind}/{manifest.parent.name}"] = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    return found


def notes(home, kind="adapters"):
    manifests = home.glob(f"{kind}/*/manifest.json")
    return [json.loads(manifest.read_text(encoding="utf-8"))["notes"] for manifest in manifests]


def wait_until(found, process=None):
    """Wait for what a function finds, and return it; what it is expected of must not end before."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := found():
            return value
        assert process is None or process.poll() is None, f"it ended without {found}"
        time.sleep(0.05)
    raise AssertionError(f"{found} never came")


def read_until(process, sentence):
    """What a process says until it says a sentence, with that."""
    told = ""
    for line in process.stdout:
        told += line
        if sentence in line:
            return told
    raise AssertionError(f"it ended without {sentence!r}:\n{told}")


def stop_here(process):
    """End a test's own child, whatever it does, and print what it said."""
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    if not process.stdout.closed:
        print(process.communicate(timeout=30)[0])
