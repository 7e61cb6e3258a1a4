"""`--prism-track`: losses and scores reach a tracker, nothing else changes, and a tracker that fails stops nothing."""

import json
import math
import os
import sqlite3

import pytest

from prism.errors import SpecError
from prism.report import tracking
from prism.report.tracking import Trackers, chosen
from prism.store import read_manifest
from prism.verdicts.record import Score
from tests.conftest import results
from tests.scored import tiny_spec
from tests.test_portfolio import record, result

DIGEST = "ab" * 32


class Kept:
    """A tracker that keeps what it is given."""

    def __init__(self, name, folder, config):
        self.name, self.folder, self.config, self.lines, self.finished = name, folder, config, [], 0

    def log(self, step, values):
        self.lines.append((step, dict(values)))

    def finish(self):
        self.finished += 1


@pytest.fixture
def kept(monkeypatch):
    runs = []

    def opened(name, folder, config):
        runs.append(Kept(name, folder, config))
        return runs[-1]

    monkeypatch.setitem(tracking.OPENERS, "trackio", opened)
    return runs


def measured(**details):
    return result(record(tier="tier1"), digests={"adapters": {"42": DIGEST}}, **details)


def test_names_are_checked_before_anything_runs():
    assert chosen("") == ()
    assert chosen("mlflow, trackio,mlflow") == ("mlflow", "trackio")
    with pytest.raises(SpecError, match=r"--prism-track neptune: no such tracker; name trackio, mlflow, tensorboard"):
        chosen("trackio,neptune")


def test_an_adapter_is_one_run_with_its_losses_and_then_its_scores(kept, tmp_path):
    trackers = Trackers(("trackio",), tmp_path)
    log = trackers.losses(DIGEST, tiny_spec(tmp_path), 42)
    log(1, {"loss": 2.0})
    log(2, {"loss": 1.0, "grad_norm": math.nan})
    trackers.scores(measured())
    (run,) = kept
    assert run.lines[:2] == [(1, {"loss": 2.0}), (2, {"loss": 1.0})]
    step, scores = run.lines[2]
    assert step == 3
    assert scores["accuracy/tuned"] == 0.75
    assert (scores["accuracy/gain_low"], scores["accuracy/gain_high"]) == (0.08, 0.22)
    assert run.config["adapter"] == DIGEST
    assert run.config["sft.learning_rate"] == "0.01"
    assert run.name == "phase1-tiny-seed-42-abababab"
    assert run.finished == 1


def test_the_losses_of_an_adapter_from_the_store_come_from_its_record(kept, tmp_path):
    Trackers(("trackio",), tmp_path).scores(measured(loss={"42": [[1, 2.5], [2, 1.5]]}))
    assert kept[0].lines[:2] == [(1, {"loss": 2.5}), (2, {"loss": 1.5})]
    assert kept[0].lines[2][0] == 3


def test_what_is_not_known_is_not_logged_and_a_finished_adapter_has_a_run_too(kept, tmp_path):
    unknown = record(gain=Score(0.15, (math.nan, math.nan)))
    Trackers(("trackio",), tmp_path).scores(result(unknown, digests={"adapter": DIGEST}))
    ((_, scores),) = kept[0].lines
    assert "accuracy/gain" in scores
    assert "accuracy/gain_low" not in scores


def test_runs_without_scores_end_with_the_session(kept, tmp_path):
    trackers = Trackers(("trackio",), tmp_path)
    trackers.losses(DIGEST, tiny_spec(tmp_path), 42)(1, {"loss": 2.0})
    assert kept[0].finished == 0
    (tmp_path / "latest-run").symlink_to(tmp_path)
    trackers.close()
    assert kept[0].finished == 1
    assert not (tmp_path / "latest-run").is_symlink()  # a run's folder is sealed, and may have none


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("no module"), "it cannot be imported (no module); pip install mlflow-skinny sqlalchemy alembic"),
        (ConnectionError("refused\nby the server"), "ConnectionError (refused)"),
    ],
)
def test_a_tracker_that_is_down_is_one_sentence_and_the_others_go_on(kept, tmp_path, monkeypatch, error, said):
    def opened(name, folder, config):
        raise error

    monkeypatch.setitem(tracking.OPENERS, "mlflow", opened)
    sentences = []
    trackers = Trackers(("mlflow", "trackio"), tmp_path, sentences.append)
    log = trackers.losses(DIGEST, tiny_spec(tmp_path), 42)
    log(1, {"loss": 2.0})
    log(2, {"loss": 1.0})
    trackers.scores(measured())
    assert sentences == [f"--prism-track mlflow: {said}; nothing more is tracked there, and the run goes on"]
    assert len(kept[0].lines) == 3


# Whole runs

WRITER = '''
"""A stand-in for tensorboard.summary: it writes what it is told, and shakes the random state, as trackers may."""

import json, random
from pathlib import Path


class Writer:
    def __init__(self, logdir):
        random.seed(0)
        self.file = Path(logdir) / "lines.jsonl"
        self.file.parent.mkdir(parents=True)

    def add_scalar(self, tag, data, step):
        with self.file.open("a") as lines:
            lines.write(json.dumps([tag, step, data]) + "\\n")

    def flush(self):
        random.random()

    def close(self):
        pass
'''


def adapters(home):
    return {path.parent.name: path.read_bytes() for path in home.glob("adapters/*/adapter_model.safetensors")}


@pytest.mark.slow
def test_the_adapter_is_the_same_with_a_tracker_and_the_logs_lie_in_the_runs_folder(checkout, monkeypatch):
    package = checkout.path / "modules" / "tensorboard"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "summary.py").write_text(WRITER)
    (checkout.path / "modules" / "mlflow.py").write_text("raise ImportError('no mlflow here')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(checkout.path / "modules")]))
    options = ("benchmarks", "--prism-profile", "nano")
    plain = checkout.runpytest_subprocess(*options, "--prism-home", str(checkout.path / "plain"))
    tracked = checkout.runpytest_subprocess(
        *options, "--prism-home", str(checkout.path / "tracked"), "--prism-track", "tensorboard,mlflow"
    )
    assert tracked.ret == plain.ret
    found = adapters(checkout.path / "tracked")
    assert found == adapters(checkout.path / "plain")
    (digest,) = found
    (folder,) = (checkout.path / "reports" / "latest" / "track" / "tensorboard").iterdir()
    assert json.loads((folder / "config.json").read_text())["adapter"] == digest
    lines = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
    assert [step for tag, step, _ in lines if tag == "loss"] == [*range(1, 25)]
    score = next(record for record in results(checkout)["records"] if record["metric"] == "accuracy")
    assert ["accuracy/tuned", 25, score["tuned"]["value"]] in lines
    tracked.stderr.fnmatch_lines(
        ["prism: --prism-track mlflow: it cannot be imported (no mlflow here); *the run goes on"]
    )


def losses_in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    (run,) = folder.iterdir()
    events = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()  # else it keeps ten of them, by lot
    return [[event.step, float(make_ndarray(event.tensor_proto))] for event in events.Tensors("loss")]


def losses_in_trackio(folder):
    with sqlite3.connect(folder / "prism.db") as base:
        lines = [(step, json.loads(text)) for step, text in base.execute("SELECT step, metrics FROM metrics")]
    return sorted([step, values["loss"]] for step, values in lines if "loss" in values)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["tensorboard", "trackio"])
def test_the_losses_that_a_tracker_keeps_are_those_of_the_manifest(checkout, tracker):
    pytest.importorskip(tracker)
    options = ("benchmarks", "--prism-profile", "nano")
    checkout.runpytest_subprocess(*options, "--prism-home", str(checkout.path / "plain"))
    out = checkout.runpytest_subprocess(
        *options, "--prism-home", str(checkout.path / "tracked"), "--prism-track", tracker
    )
    assert "nothing more is tracked" not in out.stderr.str()
    found = adapters(checkout.path / "tracked")
    assert found == adapters(checkout.path / "plain"), "the same digest, and the same bytes"
    (digest,) = found
    trained = read_manifest(checkout.path / "tracked" / "adapters" / digest)["notes"]["loss"]
    read = {"tensorboard": losses_in_tensorboard, "trackio": losses_in_trackio}[tracker]
    kept = read(checkout.path / "reports" / "latest" / "track" / tracker)
    assert [step for step, _ in kept] == [step for step, _ in trained] != []
    assert [loss for _, loss in kept] == pytest.approx(
        [loss for _, loss in trained], rel=1e-6
    )  # TensorBoard's are float32


def test_an_unknown_tracker_ends_the_run_before_it_begins(checkout):
    out = checkout.runpytest_subprocess("benchmarks", "--prism-track", "neptune")
    assert out.ret == pytest.ExitCode.USAGE_ERROR
    assert "--prism-track neptune: no such tracker" in out.stderr.str()


def test_tensorboard_has_the_losses_and_scores(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trackers = Trackers(("tensorboard",), tmp_path, pytest.fail)
    trackers.scores(measured(loss={"42": [[1, 2.5], [2, 1.5]]}))
    (folder,) = (tmp_path / "tensorboard").iterdir()
    from tensorboard.util.tensor_util import make_ndarray

    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors("loss")] == [
        (1, 2.5),
        (2, 1.5),
    ]
    assert json.loads((folder / "config.json").read_text())["adapter"] == DIGEST


def test_mlflow_has_the_losses_and_scores_in_a_file(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Trackers(("mlflow",), tmp_path, pytest.fail).scores(measured(loss={"42": [[1, 2.5]]}))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("prism").experiment_id])
    assert run.data.metrics["loss"] == 2.5
    assert run.data.metrics["accuracy/gain_low"] == 0.08
    assert run.data.params["adapter"] == DIGEST
    assert run.info.status == "FINISHED"


def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    sentences = []
    Trackers(("mlflow",), tmp_path, sentences.append).scores(measured(loss={"42": [[1, 2.5]]}))
    assert len(sentences) == 1
    assert "the run goes on" in sentences[0]
