"""What of a cluster needs no Ray: which tasks there are, what they need, what travels, and each sentence about nodes."""

import json
import pickle
import sys
from types import SimpleNamespace

import pytest

from benchmarks.simulation import cluster as simulation
from prism.cluster import carrying, joining, judging, plan
from prism.cluster import node as there
from prism.cluster.joining import Node, Nodes
from prism.cluster.plan import Looking, Missing, Task
from prism.errors import ClusterError, PrismError, StoreError
from prism.experiment import Experiment
from prism.judge import MEDICAL_CORRECTNESS, Case, ledger
from prism.judge.choosing import choose
from prism.judge.grading import grade, judgement_identity
from prism.judge.spending import Spending
from prism.progress import CONSOLE
from prism.setting import Setting
from prism.store import Store
from prism.store.provenance import versions
from tests.conftest import SPEC, write_rows, write_spec
from tests.loopback import Loopback
from tests.scored import tiny_spec
from tests.test_plugin import run

GPUS = {"vram_gb": 12, "memory_gb": 8}
H100 = ("NVIDIA H100 80GB HBM3", 79.6)
T4 = ("Tesla T4", 14.6)


def requiring(tmp_path, **needs):
    spec = tiny_spec(tmp_path)
    return spec.model_copy(update={"requires": spec.requires.model_copy(update=needs)})


def node(name, cpus=8, gpus=0, memory=32 * 2**30, kind="", cards=()):
    return Node(name, name, cpus, gpus, memory, kind, cards, "", True, True, "installed")


def nodes(*each, threads=1):
    return Nodes(each, threads, True, {})


def test_without_ray_one_sentence_says_what_to_install(checkout):
    conftest = checkout.path / "conftest.py"
    conftest.write_text(f"{conftest.read_text()}\nimport sys\nsys.modules['ray'] = None\n")
    out = run(checkout, "--prism-cluster", "auto")
    assert out.ret == pytest.ExitCode.USAGE_ERROR
    out.stderr.fnmatch_lines(["ERROR: --prism-cluster: Ray is not installed; pip install * 'pytest-prism?cluster?'"])
    assert not (checkout.path / "home" / "adapters").exists()


def test_workers_and_a_cluster_are_two_ways(checkout):
    out = run(checkout, "--prism-cluster", "auto", "-n", "2")
    assert out.ret == pytest.ExitCode.USAGE_ERROR
    assert "--prism-cluster with -n: the cluster runs tasks side by side already; leave one out" in out.stderr.str()


def test_what_the_store_lacks_are_tasks_and_nothing_is_made(tmp_path, tiny, rows):
    from prism.spec import load_spec

    data = write_rows(tmp_path / "rows.jsonl", rows)
    spec = load_spec(write_spec(tmp_path, SPEC.format(data=data, model=tiny)))
    setting = Setting(tmp_path, Store(tmp_path / "home"), CONSOLE)
    looking = Looking(**vars(setting))
    tasks = plan.missing(Experiment(spec, looking, [42, 43]))
    assert [(task.seed, task.makes.partition("/")[0]) for task in tasks] == [
        (None, "predictions"),
        (42, "adapters"),
        (43, "adapters"),
    ]
    assert len({task.makes for task in tasks}) == 3
    assert not {path.parent.name for path in tmp_path.glob("home/*/*")} - {"tables"}
    made = Experiment(spec, setting, [42])
    plan.make(made, 42)
    left = plan.missing(Experiment(spec, looking, [42, 43]))
    assert [task.seed for task in left] == [None, 43]
    assert {folder.parent.name for folder in setting.made} == {"adapters", "predictions"}
    answers = next(folder for folder in setting.made if folder.parent.name == "predictions")
    answers.rename(tmp_path / "away")
    (again,) = [task for task in plan.missing(Experiment(spec, looking, [42])) if task.seed == 42]
    assert again.makes == f"predictions/{answers.name}"
    assert [name.partition("/")[0] for name in again.found] == ["adapters"]


def test_a_judge_is_a_task_where_answers_are_made_or_were_never_graded(tmp_path, tiny, rows):
    from prism.spec import load_spec

    data = write_rows(tmp_path / "rows.jsonl", rows)
    spec = load_spec(write_spec(tmp_path, SPEC.format(data=data, model=tiny)))
    store = Store(tmp_path / "home")
    lacking = [Task(spec, 42, "adapters/a")]
    with Loopback() as server:
        judge = choose(server.judge, {}), Spending()

        def tasks(of, missing=(), **changes):
            looking = Looking(tmp_path, store, CONSOLE, **{"judge": judge} | changes)
            return [task.name for task in judging.ungraded(Experiment(of, looking, [42]), missing)]

        assert tasks(spec, lacking) == ["phase1/tiny judgements"]
        assert tasks(spec, lacking, judge=None) == []
        local = judge[0].__class__("local", str(tmp_path)), Spending()
        assert tasks(spec, lacking, judge=local) == []
        made = Experiment(spec, Setting(tmp_path, store, CONSOLE, judge=judge), [42])
        _ = made.tuned
        assert tasks(spec) == ["phase1/tiny judgements"]
        assert made.grades
        assert tasks(spec) == []


class Board:
    """A board beside the tests that keeps what it was told."""

    def __init__(self):
        self.lines = []
        self.begin = self.show = SimpleNamespace(remote=lambda *_: None)
        self.say = SimpleNamespace(remote=lambda _, line: self.lines.append(line))


KEY = "sk-W4lkTh3D0gn0w"
CASES = [Case(str(n), f"Question {n}?", f"answer {n}", f"the answer {n}") for n in range(2)]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A function that asks a server's judge as a node does, and returns what became of it and what the board was told."""
    monkeypatch.setattr(there, "_end", lambda board, name: None)  # asks Ray
    monkeypatch.setattr("prism.redaction._kept", set())
    monkeypatch.delenv("PRISM_JUDGE_API_KEY", raising=False)
    monkeypatch.setenv("PRISM_HOME", str(tmp_path / "theirs"))
    task, board = Task(tiny_spec(tmp_path), None, "judgements", grades=True), Board()

    def ask(server, home, known=()):
        order = there.Asked(task, choose(server.judge, {}), [MEDICAL_CORRECTNESS], Spending(), str(home), known)
        assert KEY.encode() not in pickle.dumps(order)
        return there.judge(order, CASES, board, KEY), board.lines

    return ask


def test_a_judges_task_has_the_key_in_memory_and_tells_it_nowhere(asked, tmp_path):
    with Loopback(key=KEY, grader=lambda _: f'{{"score": 3, "reason": "{KEY}"}}') as server:
        done, told = asked(server, tmp_path / "home")
    assert not done.error
    assert [grade.score for grade in done.grades[MEDICAL_CORRECTNESS]] == [0.3, 0.3]
    assert done.spent.requests == 2
    assert done.judged == (), "the store is shared"
    assert KEY not in repr((done, told))
    assert "[redacted]" in done.grades[MEDICAL_CORRECTNESS][0].reason


def test_a_judges_failure_is_a_sentence_without_the_key(asked, tmp_path):
    def instead(handler, _):
        handler.send(401, {"error": {"message": f"{KEY} is not known"}})
        return True

    with Loopback(instead=instead) as server:
        done, _ = asked(server, tmp_path / "home")
    assert done.error.startswith(
        f"judge http://127.0.0.1:{server.server_port}/v1: the key was refused (401: [redacted]"
    )
    assert not done.trace
    assert not done.grades


def test_judgements_travel_and_are_paid_once(asked, tmp_path):
    here = Store(tmp_path / "home")
    with Loopback(key=KEY) as server:
        choice = choose(server.judge, {"PRISM_JUDGE_API_KEY": KEY})
        identity = judgement_identity(choice, MEDICAL_CORRECTNESS)
        first = grade(choice, MEDICAL_CORRECTNESS, CASES[:1], here)
        done, _ = asked(server, "", [ledger.lines(here, identity)])
        assert done.spent.requests == 1
        ledger.receive(here, identity, *done.judged)
        assert grade(choice, MEDICAL_CORRECTNESS, CASES, here) == done.grades[MEDICAL_CORRECTNESS]
        assert done.grades[MEDICAL_CORRECTNESS][:1] == first
        assert server.asked.total() == 2


@pytest.mark.parametrize(
    ("judge", "here"),
    [
        ("http://127.0.0.1:8000/v1#m", True),
        ("http://localhost/v1#m", True),
        ("http://[::1]:80/v1#m", True),
        ("http://judge:8000/v1#m", False),
        ("openai:gpt-4o-mini", False),
    ],
)
def test_a_server_on_this_machine_is_asked_from_it(judge, here):
    assert choose(judge, {"OPENAI_API_KEY": KEY}).is_here == here


def test_what_nothing_may_make_is_named(tmp_path):
    looking = Looking(**vars(Setting(tmp_path, Store(tmp_path), CONSOLE)))
    with pytest.raises(Missing, match="^adapters/.*no task of the cluster makes this; run pytest without"):
        looking.make("adapters", {"a": 1}, lambda folder: {})
    assert looking.make("tables", {"a": 1}, lambda folder: {}).is_dir()


def test_the_longest_come_first_and_unknown_ones_before_all(tmp_path):
    long, short, unknown = (requiring(tmp_path, minutes=minutes) for minutes in (90, 5, None))
    tasks = [
        Task(spec, seed, f"{spec.requires.minutes}{seed}") for spec in (short, unknown, long) for seed in (None, 1)
    ]
    ordered = [(task.spec.requires.minutes, task.seed) for task in plan.longest_first(tasks)]
    assert ordered == [(None, None), (None, 1), (90, 1), (90, None), (5, 1), (5, None)]


def test_a_task_takes_what_its_spec_requires(tmp_path):
    on_cpu = plan.needs(requiring(tmp_path, memory_gb=4), threads=3)
    assert (on_cpu.cpus, on_cpu.gpus, on_cpu.memory) == (3, 0, 4 * 2**30)
    spec = requiring(tmp_path, **GPUS)
    assert plan.needs(spec, threads=3) == plan.Needs(1, 1, 8 * 2**30, 12)
    spread = spec.model_copy(update={"launch": spec.launch.model_copy(update={"processes": 4})})
    assert plan.needs(spread, threads=3) == plan.Needs(4, 4, 8 * 2**30, 12)
    with pytest.raises(ClusterError, match=r"phase1/tiny: needs 4 GPUs \(a has 2\), and no node of the cluster has it"):
        nodes(node("a", 8, 2, cards=(H100,))).require(spread)


@pytest.mark.parametrize(
    ("needs", "found", "sentence"),
    [
        (GPUS, [node("a")], "phase1/tiny: needs a GPU (a has none), and no node of the cluster has it"),
        (GPUS | {"vram_gb": 40}, [node("a", 8, 1, cards=(T4,))], "needs a GPU with 40 GiB (a has Tesla T4, 15 GiB)"),
        ({"memory_gb": 64}, [node("a"), node("b")], "needs 64 GiB of memory (a has 32)"),
        ({}, [node("a", cpus=1)], "needs 2 cores, one a thread (a has 1; OMP_NUM_THREADS sets the threads)"),
    ],
)
def test_a_spec_that_fits_on_no_node_is_refused(tmp_path, needs, found, sentence):
    with pytest.raises(ClusterError) as refused:
        nodes(*found, threads=2).require(requiring(tmp_path, **needs))
    assert sentence in str(refused.value)
    assert str(refused.value).endswith("add such a node, or leave the spec out with -k")
    large = node("large", 64, 8, 2**40, cards=(H100,))
    assert nodes(*found, large, threads=2).require(requiring(tmp_path, **needs))


def test_all_seeds_of_a_spec_run_on_one_kind_of_gpu(tmp_path):
    fast = node("fast", 64, 2, 2**40, "accelerator_type:H100", (H100,))
    slow = [node(f"slow{n}", 64, 4, 2**40, "accelerator_type:T4", (T4,)) for n in range(3)]
    small, large = (plan.needs(requiring(tmp_path, vram_gb=gib), 1) for gib in (12, 40))
    assert nodes(fast, *slow).kind(small) == "accelerator_type:T4"
    assert nodes(fast, *slow).kind(large) == "accelerator_type:H100"
    assert nodes(*slow).kind(small) == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"python": "3.10.1"}, "has Python 3.10.1, and this machine 3."),
        ({"versions": {"peft": "0.1"}}, "has peft 0.1, and this machine has "),
        ({"versions": {"unsloth": "2026.10"}}, "has unsloth 2026.10, and this machine has none; install the same set"),
        ({"versions": {"torch": None}}, "has no torch, and this machine has "),
        ({"lacks": ["/data"]}, "sees no /data, which --prism-data or --prism-models names"),
    ],
)
def test_a_node_that_differs_is_refused(change, sentence, monkeypatch):
    said = {"host": "b", "python": ".".join(map(str, sys.version_info[:3])), "lacks": [], "versions": {}}
    said["versions"] = {"torch": "2.13.0", "peft": "0.21.2"}
    monkeypatch.setattr(joining, "versions", lambda names: {"torch": "2.13.0", "peft": "0.21.2"})
    joining._require_same(said)
    changed = said | change | {"versions": said["versions"] | change.get("versions", {})}
    changed["versions"] = {name: version for name, version in changed["versions"].items() if version}
    with pytest.raises(ClusterError) as refused:
        joining._require_same(changed)
    assert f"cluster node b: {sentence}" in str(refused.value)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("here", "write auto, HOST:PORT or ray://HOST:PORT"),
        (":6379", "write auto, HOST:PORT or ray://HOST:PORT"),
        ("127.0.0.1:1", "cannot be reached (*"),
        ("ray://127.0.0.1:1", "cannot be reached (*"),
        ("127.0.0.1:99999", "cannot be reached (*"),
    ],
)
def test_an_address_is_tried_before_ray_is_asked(address, sentence, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", object())  # it would try for two minutes
    with pytest.raises(ClusterError) as refused:
        joining.connect(address, {})
    start = sentence.partition("*")[0]
    assert str(refused.value).startswith(f"--prism-cluster {address}: {start}")


def stored(home):
    def work(folder):
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_bytes(bytes(range(256)))
        return {"steps": 3}

    return Store(home).make("adapters", {"seed": 42}, work)


def test_an_artifact_that_travels_arrives_whole(tmp_path):
    folder = stored(tmp_path / "there")
    artifact = f"adapters/{folder.name}"
    left = tmp_path / "here" / f"{artifact}.partial"
    (left / "trainer").mkdir(parents=True)  # of a training that was killed here
    (left / "adapter_config.json").write_text("{}")
    arrived = carrying.unpack(artifact, carrying.pack(folder), Store(tmp_path / "here"))
    assert arrived == tmp_path / "here" / artifact
    assert (arrived / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    assert sorted(path.name for path in arrived.rglob("*")) == ["manifest.json", "part", "weights"]
    assert Store(tmp_path / "here").find("adapters", {"seed": 42}) == arrived


def test_an_artifact_that_was_changed_on_its_way_is_refused(tmp_path):
    folder = stored(tmp_path / "there")
    content = carrying.pack(folder).replace(bytes(range(256)), bytes(256))
    with pytest.raises(StoreError, match="part/weights was changed on its way between machines"):
        carrying.unpack(f"adapters/{folder.name}", content, Store(tmp_path / "here"))
    assert Store(tmp_path / "here").find("adapters", {"seed": 42}) is None


def test_what_is_compared_between_machines_is_what_digests_hold():
    from prism.models.identity import ANSWERING_LIBRARIES, TRAINING_LIBRARIES

    assert {*ANSWERING_LIBRARIES, *TRAINING_LIBRARIES} <= {*joining.PACKAGES}
    assert versions(joining.PACKAGES)["torch"]
    assert issubclass(ClusterError, PrismError)


def test_the_simulated_graph_is_within_ten_percent_of_the_least(tmp_path):
    known = simulation.durations("full", ())
    row = simulation.simulated(known, 1000, 8, 512)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["1,000 × 8", "512", "9,000"]
    assert float(cells[5].removesuffix(" %")) < 10
    assert float(cells[5].removesuffix(" %")) < float(cells[6].removesuffix(" %")), "the order is worth something"


def test_the_simulation_hands_each_gpu_the_next_task():
    assert simulation.makespan([3, 2, 2, 1], 2) == 4
    assert simulation.makespan([5], 8) == 5


def test_a_records_durations_are_taken_by_stage(tmp_path):
    seconds = {"baseline": 10, "label likelihoods": 2, "training, seed 42": 60, "tuned, seed 42": 30}
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"cost": [{"phase": "phase1", "spec": "nano", "seconds": seconds}]}))
    ((spec, first, each),) = simulation.durations("nano", [file])
    assert (spec.id, first, each) == ("phase1/nano", 12, 90)


def test_a_records_clock_counts_what_each_task_pays(tmp_path):
    clock = {"rows": 1, "importing the libraries": 2, "loading the base": 3, "rows in the window": 4}
    clock |= {"answers, baseline": 10, "label likelihoods": 2, "scores and verdicts": 50, "total": 400}
    for seed in (42, 43):
        clock |= {f"training, seed {seed}": 60, f"answers, tuned, seed {seed}": 30}
    clock["checks of the adapter"] = 8  # of both
    cost = {"clock": clock, "cached": [], "seconds": {"baseline": 9, "training, seed 42": 50}}
    assert simulation.recorded(cost) == (10 + 12, 10 + 60 + 30 + 4)
    assert simulation.recorded(cost | {"cached": ["baseline"]}) == (9, 50), "what was cached took no time"
    assert simulation.recorded({"seconds": {"baseline": 9}}) is None
