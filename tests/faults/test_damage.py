"""Flipped bits and cut files at random places of everything that PRISM stores: noticed, or of no consequence."""

import contextlib
import json
import random
import shutil
import warnings

import pytest

from prism.errors import ModelError, PrismError, StoreError
from prism.judge.ledger import locked, read
from prism.rows.answers import ANSWERS, LIKELIHOODS, finished_ids, read_likelihoods, read_predictions
from prism.store import MANIFEST, Store
from prism.verdicts import looks
from prism.verdicts.scores import read_scores, write_scores
from tests.scored import answers, examples, scored, tiny_spec

TIMES = 150


def damaged(state, content):
    """The content with some bits flipped, or cut off; never the same."""
    while True:
        changed = bytearray(content)
        if state.random() < 0.3:
            changed = changed[: state.randrange(len(changed))]
        else:
            for _ in range(state.choice((1, 1, 2, 16))):
                changed[state.randrange(len(changed))] ^= 1 << state.randrange(8)
        if changed != content:
            return bytes(changed)


ARTIFACTS = {
    "adapters": {"adapter_model.safetensors": bytes(range(256)) * 8, "adapter_config.json": b'{"r": 4}'},
    "predictions": {ANSWERS: b'{"id": "a", "answer": "b", "tokens": 1, "finish": "stop"}\n'},
    "tables": {"value.json": b'{"kappa": 0.5}'},
    "similarities": {"similarities.json": b"[0.5]"},
}


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_an_artifact(tmp_path, kind):
    """Every file, and the manifest with its notes: they decide whether an adapter is merged."""
    files, identity, state = ARTIFACTS[kind], {"rows": "é", "seed": 42}, random.Random(kind)

    def work(folder):
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return {"parity": {"holds": {"merge": False}}, "seconds": 1.5}

    store = Store(tmp_path)
    good = store.make(kind, identity, work)
    manifest = (good / MANIFEST).read_bytes()
    for name in (*files, MANIFEST):
        for _ in range(TIMES // (len(files) + 1)):
            (good / name).write_bytes(damaged(state, (good / name).read_bytes()))
            with pytest.warns(UserWarning, match="set aside as .* and made again"):
                assert store.make(kind, identity, work) == good
            assert (good / MANIFEST).read_bytes() == manifest
            assert all((good / name).read_bytes() == content for name, content in files.items())
            for aside in tmp_path.glob(f"{kind}/*.damaged-*"):
                shutil.rmtree(aside)


def test_a_manifest_without_a_checksum_of_its_own_is_an_older_one(tmp_path):
    store = Store(tmp_path)
    good = store.make("tables", {"a": 1}, lambda folder: {})
    manifest = json.loads((good / MANIFEST).read_text())
    del manifest["check"]
    (good / MANIFEST).write_text(json.dumps(manifest))
    assert store.find("tables", {"a": 1}) == good


def test_judgements(tmp_path):
    store, identity, state = Store(tmp_path), {"judge": "a"}, random.Random("judgements")
    wrote = {str(n): {"key": str(n), "score": n / 4, "reason": "é", "note": "", "judge": "m"} for n in range(4)}
    with locked(store, identity, "x") as log:
        for key, entry in wrote.items():
            log.add(key, **{name: value for name, value in entry.items() if name != "key"})
    [file] = tmp_path.glob("judgements/*/judgements.jsonl")
    content = file.read_bytes()
    for _ in range(TIMES):
        file.write_bytes(damaged(state, content))
        assert read(store, identity).items() <= wrote.items(), "a judgement is as it was given, or asked for again"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with locked(store, identity, "x") as log:
                assert log.entries.items() <= wrote.items()
        for aside in file.parent.glob("*damaged*"):
            aside.unlink()


def test_scores(tmp_path):
    state, path = random.Random("scores"), tmp_path / "tiny@abababab.json"
    write_scores(scored(tiny_spec(tmp_path), {42: answers(12), 43: answers(12, wrong=[3])}), path)
    content = path.read_bytes()
    unchanged = json.loads(content)
    for _ in range(TIMES):
        changed = damaged(state, content)
        path.write_bytes(changed)
        with contextlib.suppress(PrismError):
            read_scores(path)
            assert json.loads(changed) == unchanged, "only white space"


def test_a_look(tmp_path):
    good, store, state = scored(tiny_spec(tmp_path), {42: answers(12)}), Store(tmp_path), random.Random("look")
    looks.record(good, store)
    [path] = (tmp_path / looks.FOLDER).rglob("*.json")
    content = path.read_bytes()
    known = looks.seen(good, store)
    for _ in range(TIMES):
        path.write_bytes(damaged(state, content))
        with contextlib.suppress(StoreError):
            assert looks.seen(good, store) == known, "only white space"


@pytest.mark.parametrize("name", [ANSWERS, LIKELIHOODS])
def test_half_a_file_of_answers(tmp_path, name):
    """What a killed process left has no checksum yet: a line that is none ends it, and the rest is asked again."""
    state, asked = random.Random(name), examples(6)
    lines = [
        {"id": e.id, "answer": "é", "tokens": 2, "finish": "stop"}
        if name == ANSWERS
        else {"id": e.id, "labels": {"a": -1.0}}
        for e in asked
    ]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    for _ in range(TIMES):
        (tmp_path / name).write_bytes(damaged(state, content))
        found = finished_ids(tmp_path / name)
        assert len(found) <= 6
        with contextlib.suppress(ModelError):
            (read_predictions if name == ANSWERS else read_likelihoods)(tmp_path, asked)
