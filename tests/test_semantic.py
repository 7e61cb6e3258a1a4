"""Embedding similarity, by a tiny random model: which samples are scored, and what is said where something is missing."""

import json
import sys
from types import SimpleNamespace

import numpy
import pytest

from prism.errors import ModelError, SpecError
from prism.metrics import semantic
from prism.models import embeddings
from prism.rows import Example
from prism.tasks import metrics_of
from prism.tasks.check import load_checked_spec
from tests.conftest import ROOT, SPEC, write_spec


def examples(*references):
    return [Example(str(i), ({"role": "user", "content": "?"},), text, str(i)) for i, text in enumerate(references)]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """A BERT of one layer with random weights and mean pooling, as sentence-transformers saves it."""
    pytest.importorskip("sentence_transformers", reason="the extra `semantic` is not installed")
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("embedder")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]))
    torch.manual_seed(0)
    config = BertConfig(vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    word = models.Transformer(str(folder / "bert"))
    whole = folder / "whole"
    SentenceTransformer(modules=[word, models.Pooling(16)], device="cpu").save(str(whole))
    return whole


def test_similarity_and_what_is_unscored(embedder):
    said = ["a b", "c", "d", " "]
    samples = examples("a b", "a b", " ", "a b")
    pairs = [(example.reference, answer) for example, answer in zip(samples, said)]
    found = embeddings.similarities(embedder.name, embedder.parent, pairs)
    assert found[0] == pytest.approx(1, abs=1e-6)
    assert -1 <= found[1] < 0.999
    rows = semantic.metric({"bytes": "own"}, dict(zip(pairs, found))).statistics(samples, said)
    assert numpy.isnan(rows[2]).all()
    assert rows[[0, 1, 3]].tolist() == [[found[0], 1], [found[1], 1], [0, 1]]


def test_other_weights_are_another_version_and_another_place_is_not(embedder, tmp_path):
    import shutil

    def version(folder):
        return semantic.metric(embeddings.model_identity(str(folder), tmp_path), {}).version

    shutil.copytree(embedder, tmp_path / "moved")
    assert version(tmp_path / "moved") == version(embedder)
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"other")
    assert version(tmp_path / "moved") != version(embedder)


def test_a_model_that_is_not_there_or_cannot_be_loaded(embedder, tmp_path):
    with pytest.raises(
        ModelError, match=r"\./none: there is no sentence-transformers model under .* \[semantic\]\.model"
    ):
        embeddings.model_identity("./none", tmp_path)
    with pytest.raises(ModelError, match=r"nobody/nothing: the model hub cannot be reached .* \[semantic\]\.model"):
        embeddings.model_identity("nobody/nothing", tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "weights.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="a pickled model can run any code"):
        embeddings.model_identity(str(tmp_path), tmp_path)
    with pytest.raises(ModelError, match="the sentence-transformers model cannot be loaded"):
        embeddings.similarities("./none", tmp_path, [("a", "b")])


def test_the_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match=r"sentence-transformers, which is not installed; pip install"):
        embeddings.model_identity("sentence-transformers/all-MiniLM-L6-v2", tmp_path)


def test_the_metric_is_there_only_where_the_spec_names_a_model(tmp_path):
    gate = "\n[gate.tier2]\nsemantic_similarity = { gain = 0.0 }\n"
    with pytest.raises(SpecError, match="semantic_similarity: not a tier2 metric of financial_sentiment"):
        load_checked_spec(write_spec(tmp_path, SPEC.format(data="x", model="y") + gate))
    text = SPEC.format(data="x", model="y") + gate + '[semantic]\nmodel = "sentence-transformers/all-MiniLM-L6-v2"\n'
    assert "tier2-semantic_similarity-gain" in [
        limit.id for limit in load_checked_spec(write_spec(tmp_path, text)).limits()
    ]


def test_a_reference_that_holds_it_is_compared_by_it():
    measures = {"semantic_similarity": SimpleNamespace(version=7, judge="")}
    (found,) = metrics_of(SimpleNamespace(task="medical_chat", measures=measures), ROOT)
    assert (found.name, found.version, found.range) == ("semantic_similarity", 7, (-1.0, 1.0))


@pytest.mark.slow
@pytest.mark.usefixtures("new_interpreter")
def test_a_run_scores_it_and_a_repetition_embeds_nothing(checkout, embedder):
    conftest = checkout.path / "conftest.py"
    said = "import sys\ndef pytest_unconfigure(): print('torch imported:', 'torch' in sys.modules)\n"
    conftest.write_text(conftest.read_text() + said)
    spec = checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    more = f'\n[gate.tier2]\nsemantic_similarity = {{ floor = -1.0 }}\n[semantic]\nmodel = "{embedder}"\n'
    spec.write_text(spec.read_text() + more)
    options = ("benchmarks", "-m", "phase1 and tier2", "--prism-profile", "nano", "--prism-spec", "tiny")
    checkout.runpytest_subprocess(*options).assert_outcomes(passed=1)
    table = json.loads((checkout.path / "reports" / "latest" / "results.json").read_text())
    record = next(record for record in table["records"] if record["metric"] == "semantic_similarity")
    assert (record["tier"], record["n"]) == ("tier2", 40)
    assert -1 <= record["tuned"]["value"] < 1
    lines = (checkout.path / "reports" / "latest" / "samples" / "phase1-tiny.jsonl").read_text().splitlines()
    each = [json.loads(line)["scores"]["semantic_similarity"][1] for line in lines]
    assert numpy.mean(each) == pytest.approx(record["tuned"]["value"])
    checkout.runpytest_subprocess(*options).stdout.fnmatch_lines(["torch imported: False"])
