"""Connect to a Ray cluster and look at its nodes: what cannot work is one sentence before anything is spent."""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism import devices
from prism.cluster import probing
from prism.cluster.plan import Needs, needs
from prism.errors import ClusterError, first_line
from prism.models.identity import ANSWERING_LIBRARIES, TRAINING_LIBRARIES
from prism.setting import Setting
from prism.spec import Spec
from prism.store import make_folder
from prism.store.provenance import own_source, source_tree, versions

PACKAGES = (
    "scikit-learn",
    "pydantic",
    "psutil",
    "filelock",
    "deepeval",  # whose prompts a judge is sent
    *dict.fromkeys((*TRAINING_LIBRARIES, *ANSWERING_LIBRARIES)),
)
REACH = 10.0  # seconds to reach the address; Ray itself tries for two minutes and then ends the process
PROBE = 120.0  # seconds for all nodes to answer
NOMINAL = 0.95  # of a GPU's nominal GiB are real
# What a checkout has that no task needs, where nodes are sent a copy of it.
LEFT_OUT = [".git", ".venv", "reports", "site", "build", "dist", "docs", "tests", "**/__pycache__", "*.egg-info"]
START = "start it with `ray start --head`, or name its address"
# The head's server for clients forks beside threads of gRPC, and some of the processes die at birth: ray-project/ray#63202.
START_FOR_CLIENTS = "try again; or start its head with GRPC_ENABLE_FORK_SUPPORT=0, which Ray's server for clients needs"


@dataclass(frozen=True)
class Node:
    """One machine of the cluster, as Ray counts it and as it found itself."""

    id: str
    host: str
    cpus: int
    gpus: int
    memory: float  # bytes
    kind: str  # Ray's resource of the GPUs' kind, "" if it knows none
    cards: tuple[tuple[str, float], ...]  # name and GiB
    home: str
    sees_store: bool
    sees_checkout: bool
    code: str  # "installed", the folder that has PRISM's code, or "" if it lacks this code

    def lacks(self, need: Needs) -> str:
        """What the node is too small for; empty if the task fits on it."""
        if self.gpus < need.gpus:
            return (
                f"{need.gpus} GPUs ({self.host} has {self.gpus})" if need.gpus > 1 else f"a GPU ({self.host} has none)"
            )
        if need.vram and max((total for _, total in self.cards), default=0.0) < NOMINAL * need.vram:
            return f"a GPU with {need.vram:g} GiB ({self.host} has {_cards(self.cards)})"
        if self.cpus < need.cpus:
            return f"{need.cpus} cores, one a thread ({self.host} has {self.cpus}; OMP_NUM_THREADS sets the threads)"
        if self.memory < need.memory:
            return f"{need.memory / 2**30:.3g} GiB of memory ({self.host} has {self.memory / 2**30:.3g})"
        return ""


@dataclass(frozen=True)
class Nodes:
    """The cluster: its nodes, whether all of them see the store, and the threads of a task."""

    nodes: tuple[Node, ...]
    threads: int
    shared: bool
    environment: dict[str, Any]  # Ray's runtime_env of the job

    def sentence(self) -> str:
        """What the terminal is told."""
        cpus, gpus = sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes)
        cards = sorted({name for node in self.nodes for name, _ in node.cards})
        store = "the store is shared" if self.shared else "nodes do not see the store, so artifacts travel"
        own = f"{self.threads} {'thread' if self.threads == 1 else 'threads'} a task"
        return (
            f"cluster of {len(self.nodes)} node{'s' * (len(self.nodes) != 1)}, {cpus} cores, {gpus} GPUs"
            f"{' (' + ', '.join(cards) + ')' if cards else ''}; {own}; {store}"
        )

    def kind(self, need: Needs) -> str:
        """The resource that keeps a spec on one kind of GPU, the most frequent that fits; "" where there is one kind.

        Adapters of one recipe on different GPUs differ, and their costs cannot be compared.
        """
        fitting = [node for node in self.nodes if node.gpus and not node.lacks(need)]
        counts = {kind: sum(node.gpus for node in fitting if node.kind == kind) for kind in {n.kind for n in fitting}}
        different = len({node.kind for node in self.nodes if node.gpus}) > 1
        return max(sorted(counts), key=counts.__getitem__) if different and counts else ""

    def require(self, spec: Spec) -> Needs:
        """What a task of the spec needs. Raises ClusterError if no node has it."""
        need = needs(spec, self.threads)
        if all(node.lacks(need) for node in self.nodes):
            largest = max(self.nodes, key=lambda node: (node.gpus > 0, node.cpus, node.memory))
            raise ClusterError(
                f"{spec.id}: needs {largest.lacks(need)}, and no node of the cluster has it; add such a node, or leave the spec "
                f"out with -k"
            )
        return need


def join(address: str, setting: Setting) -> Nodes:
    """Connect this process to the cluster and look at every node. Raises ClusterError if it cannot be used."""
    try:
        import ray
    except ImportError:
        raise ClusterError(
            "--prism-cluster: Ray is not installed; pip install -c constraints.txt -c constraints-cluster.txt "
            "'pytest-prism[cluster]'"
        ) from None
    connect(address, {})
    try:
        found = _looked_at(ray, setting)
        environment = _environment(found, setting)
        if "working_dir" in environment or "py_modules" in environment:  # which Ray sends for a whole job alone
            ray.shutdown()
            connect(address, environment)
            found = _looked_at(ray, setting)  # what needs PRISM's code to be seen
        threads = _threads(found)
    except BaseException:
        ray.shutdown()
        raise
    shared = setting.store.shared is not None or all(node.sees_store for node in found)
    return Nodes(tuple(found), threads, shared, environment)


def connect(address: str, environment: dict[str, Any]) -> None:
    """Call `ray.init`, quietly and in time, and keep the handler of SIGTERM, which Ray replaces."""
    import ray

    named = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address  # as Ray does
    host, _, port = named.rpartition("://")[2].rpartition(":")
    if named != "auto":
        if not (host and port.isdecimal()):
            raise ClusterError(f"--prism-cluster {named}: write auto, HOST:PORT or ray://HOST:PORT")
        try:
            socket.create_connection((host, int(port)), REACH).close()
        except (OSError, OverflowError) as error:
            raise ClusterError(f"--prism-cluster {named}: cannot be reached ({error}); {START}") from None
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError):
        remedy = START_FOR_CLIENTS if named.startswith("ray://") else START
        raise ClusterError(f"--prism-cluster {address}: no cluster answers there; {remedy}") from None
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        if "ersion mismatch" in said:
            raise ClusterError(
                f"--prism-cluster {address}: {said}; use the same Python and Ray on all machines"
            ) from None
        raise ClusterError(f"--prism-cluster {address}: Ray cannot use it ({first_line(error)}); {START}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _looked_at(ray: Any, setting: Setting) -> list[Node]:
    """Every node that is alive, probed by a task on it. Raises ClusterError for nodes that differ from this machine."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    ray.cloudpickle.register_pickle_by_value(probing)
    probe = ray.remote(num_cpus=0, max_retries=0)(probing.probe)
    alive = [node for node in ray.nodes() if node["Alive"]]
    parent = str(Path(devices.__file__).parent.parent)
    folders = [str(folder) for folder in (setting.data, setting.models) if folder]
    tree = source_tree(setting.root)
    token = None if setting.store.shared else write_token(setting.store.home)  # a URL is the same for all
    try:
        asked = {
            node["NodeID"]: probe.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote(
                list(PACKAGES), (parent, own_source()), (str(setting.root), tree), str(token or ""), folders
            )
            for node in alive
        }
        answers = {name: ray.get(ref, timeout=PROBE) for name, ref in asked.items()}
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"--prism-cluster: a node does not answer ({first_line(error)}); restart or remove it"
        ) from None
    finally:
        if token:
            token.unlink(missing_ok=True)
    found = []
    for node in alive:
        has, said = node["Resources"], answers[node["NodeID"]]
        _require_same(said)
        found.append(
            Node(
                node["NodeID"],
                said["host"],
                int(has.get("CPU", 0)),
                int(has.get("GPU", 0)),
                has.get("memory", 0.0),
                next((name for name in has if name.startswith("accelerator_type:")), ""),
                tuple(tuple(card) for card in said["cards"]) if has.get("GPU") else (),
                said["home"],
                said["sees_store"],
                said["sees_checkout"],
                said["code"],
            )
        )
        if found[-1].gpus and said["code"] and not found[-1].cards:
            why = said["fault"] or "the NVIDIA driver shows none"
            raise ClusterError(
                f"cluster node {said['host']}: Ray counts {found[-1].gpus} GPUs, but {why}; start it with "
                f"`ray start --num-gpus 0`, or mend its driver"
            )
    return found


def _require_same(said: dict[str, Any]) -> None:
    """Raise ClusterError for a node whose versions would give other artifacts, or that lacks a folder."""
    here, host = versions(PACKAGES), f"cluster node {said['host']}"
    if said["python"].rpartition(".")[0] != platform.python_version().rpartition(".")[0]:
        raise ClusterError(
            f"{host}: has Python {said['python']}, and this machine {platform.python_version()}; use one"
        )
    for name in sorted({*here, *said["versions"]}):
        there = said["versions"].get(name)
        if there != here.get(name):
            own = f"has {here[name]}" if name in here else "has none"
            raise ClusterError(
                f"{host}: has {f'{name} {there}' if there else f'no {name}'}, and this machine {own}; install the same "
                f"set of libraries on all (constraints.txt)"
            )
    if said["lacks"]:
        raise ClusterError(
            f"{host}: sees no {said['lacks'][0]}, which --prism-data or --prism-models names; put it where all nodes see it"
        )


def write_token(home: Path) -> Path | None:
    """A file in the store by which a node knows that it sees the same; None if it cannot be written."""
    try:
        make_folder(home)
        token = home / f".cluster-{uuid.uuid4().hex}"
        token.touch()
    except OSError:
        return None
    return token


def _environment(found: Sequence[Node], setting: Setting) -> dict[str, Any]:
    """How tasks get PRISM's code, the specs and the bundled rows: as all nodes have them, else as a copy of this one's."""
    if all(node.code and node.sees_checkout for node in found):
        places = {node.code for node in found} - {"installed"}
        return {"env_vars": {"PYTHONPATH": places.pop()}} if places else {}
    root, home = setting.root, setting.store.home
    own = [str(home.relative_to(root))] if home.is_relative_to(root) else []
    copied: dict[str, Any] = {"working_dir": str(root), "excludes": [*LEFT_OUT, *own]}
    if any(node.code != "installed" for node in found):
        copied["py_modules"] = [str(Path(devices.__file__).parent)]
    return copied


def _threads(found: Sequence[Node]) -> int:
    """The threads of a task: $OMP_NUM_THREADS, else this machine's cores, at most those of the smallest node.

    They are stated, not left to each node, because the number changes the last bits of sums.
    """
    import psutil

    if (stated := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(stated):
        return int(stated)
    own = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, min(own, *(node.cpus for node in found if node.cpus)))


def _cards(cards: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name}, {total:.0f} GiB" for name, total in cards) or "none"
