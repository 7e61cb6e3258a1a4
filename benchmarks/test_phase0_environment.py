"""Phase 0: does the toolchain work, before compute is spent? One check per item; each prints its result (use -rP).

The checks with a model run on the profile's phase-0 spec (benchmarks/specs/phase0). What takes seconds is marked
`remembered`: where it passed and nothing has changed since, it is not done again (`--prism-retrain` does it).
"""

import functools
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from prism.devices import cuda_devices
from prism.models import cost
from prism.models.identity import engine
from prism.models.lazy import BATCH, LENGTH
from prism.plugin.scheduling import resources
from prism.rows.answers import read_predictions

pytestmark = pytest.mark.phase0


IMPORTS = {  # by what may not fit here
    "torchvision": "import torchvision",
    "deepeval": """
import os, socket
os.environ |= {"DEEPEVAL_TELEMETRY_OPT_OUT": "YES", "DEEPEVAL_DISABLE_DOTENV": "1", "ERROR_REPORTING": "NO"}
def refuse(*_): raise SystemExit("deepeval opened a connection")
socket.socket.connect = refuse
from deepeval.metrics import GEval
print(GEval.__module__)
""",
}
PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(
    "requirement", map(Requirement, PROJECT["dependencies"]), ids=lambda requirement: requirement.name
)
def test_version(requirement):
    installed = version(requirement.name)
    print(requirement.name, installed)
    assert requirement.specifier.contains(installed, prereleases=True), (
        f"{requirement} is required; pip install -c constraints.txt"
    )


@pytest.mark.parametrize(
    "requirement", map(Requirement, PROJECT["optional-dependencies"]["gpu"]), ids=lambda requirement: requirement.name
)
def test_gpu_extra(requirement, session):
    if session.profile != "full":
        pytest.skip(f"profile {session.profile} does not need the gpu extra")
    assert requirement.specifier.contains(version(requirement.name), prereleases=True)


def test_device(session):
    print(f"profile {session.profile} ({session.why}), {cuda_devices()} CUDA device(s), {os.cpu_count()} cores")
    assert session.profile != "full" or cuda_devices(), "the full profile needs a CUDA device"


def test_resources(planned_spec, session):
    for line, enough in resources(planned_spec, session.setting.store.home):
        print(f"{planned_spec.id}: {line}")
        assert enough, f"{planned_spec.id}: {line}"


@pytest.fixture(scope="module")
def importing():
    """Processes that import what may not fit here, started when it is first called: other processors do that meanwhile."""
    running = {}

    def process(library):
        if library not in running:
            command = [sys.executable, "-c", IMPORTS[library]]
            running[library] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return running[library]

    yield process
    for each in running.values():
        each.kill()  # which does nothing where it has ended
        each.communicate()


@pytest.mark.remembered
def test_model_loads(spec, experiment, importing):
    for library in filter(importlib.util.find_spec, IMPORTS):  # they are awaited after what needs the model
        importing(library)
    before = cost.resident_gib()
    loaded = experiment.base.load()
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    print(f"{spec.model.model_name}: {parameters:,} parameters, {engine(spec)}, {cost.resident_gib() - before:.2f} GiB")
    assert not loaded.model.training


@pytest.mark.remembered
def test_lora_share(spec, experiment):
    """Each adapted projection of in × out weights adds r × (in + out) weights, and nothing else trains."""
    from prism.models import load

    loaded = experiment.base.load()
    targets = re.compile(rf".*\.({'|'.join(spec.lora['target_modules'])})")
    shapes = [(m.in_features, m.out_features) for name, m in loaded.model.named_modules() if targets.fullmatch(name)]
    adapted = load.add_adapter(loaded, spec.seed)
    trainable, total = adapted.get_nb_trainable_parameters()
    experiment.base.take_off(adapted)
    print(f"{trainable:,} of {total:,} parameters train: {trainable / total:.2%}")
    assert trainable == spec.lora["r"] * sum(map(sum, shapes))


@pytest.fixture(scope="module")
def ten_steps(spec, experiment, examples, tmp_path_factory):
    """Trains when it is first called, which a check that is remembered does not do."""
    folder = tmp_path_factory.mktemp("ten-steps")

    @functools.cache
    def trained():
        from prism.models import train

        with cost.stage(f"{spec.id}: ten steps", BATCH):
            return folder, train.train(experiment.base.load(), examples.training, spec.seed, folder)

    yield trained
    if trained.cache_info().currsize:  # whole: what has failed may have left an adapter's layers in the base
        experiment.base.take_off(experiment.base.load().model)
        experiment.base.leave()
    experiment.base.free()


@pytest.mark.remembered
def test_two_processes_train_the_same_adapter(spec, session, ten_steps, tmp_path):
    """This one and another, bit for bit, on a CPU only: on a GPU the order of additions may differ."""
    if engine(spec)["device"] != "cpu":
        pytest.skip("only a CPU guarantees identical bits")
    code = """
import sys
from pathlib import Path
from prism.models import load, train
from prism.rows.examples import load_examples
from prism.spec import load_spec
from prism.tasks import load_task
spec_file, root, folder = map(Path, sys.argv[1:])
spec = load_spec(spec_file)
train.train(load.load(spec, root), load_examples(spec, load_task(spec), root)[0], spec.seed, folder)
"""
    file = session.setting.root / "benchmarks" / "specs" / spec.phase / f"{spec.name}.toml"
    command = [sys.executable, "-c", code, str(file), str(session.setting.root), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=session.setting.root) as other:
        here, _ = ten_steps()  # while the other one imports its libraries
        _, errors = other.communicate(timeout=900)
    assert other.returncode == 0, errors
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (here, tmp_path)]
    digests = {hashlib.sha256(each).hexdigest() for each in weights}
    print("adapter_model.safetensors:", *digests)
    assert len(digests) == 1


@pytest.mark.remembered
def test_loss_falls_in_ten_steps(ten_steps):
    losses = [loss for _, loss in ten_steps()[1]["loss"]]
    print("loss:", *losses)
    assert len(losses) == 10
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.remembered
def test_generation_answers_and_stops(spec, ten_steps, experiment, examples, tmp_path):
    from prism.models import generate

    ten_steps()
    with cost.stage(f"{spec.id}: answers", LENGTH):
        loaded = experiment.base.load()
        generate.answers(loaded, loaded.model, examples.held_out, tmp_path)
    answers = read_predictions(tmp_path, examples.held_out)
    print(*(prediction.answer for prediction in answers[:4]), sep="\n")
    assert any(prediction.answer.strip() for prediction in answers)
    assert any(prediction.finish == "stop" for prediction in answers)


@pytest.mark.remembered
def test_torchvision_fits_torch(importing):
    """A torchvision built for CUDA beside a torch for CPUs breaks the import of every vision model."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed; LLaVA with SigLIP needs none")
    process = importing("torchvision")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, (
        f"torchvision {version('torchvision')} does not fit torch {version('torch')}, so no vision model can be imported; "
        f"uninstall it, or install the build for this torch: {errors.strip().splitlines()[-1]}"
    )


@pytest.mark.remembered
def test_deepeval_imports_offline(importing):
    """In a process that refuses every connection."""
    process = importing("deepeval")
    said, errors = process.communicate(timeout=300)
    print(said.strip())
    assert process.returncode == 0, errors
