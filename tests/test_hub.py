"""The hub as it behaves: it moves, refuses, fails, is not there. The clients are the real ones, the hub is on loopback."""

import json
import os
import subprocess
import sys
import time

import pytest

from prism.errors import DataError, ModelError
from prism.spec import load_spec
from prism.store import hub as hub_store
from prism.store.sources import base_identity
from tests.conftest import ROOT, SPEC, examples_of, results, write_spec
from tests.loopback_hub import Hub, folder_files

NAME = "owner/tiny"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that this process's clients ask, with an empty cache and a run that has asked nothing yet."""
    import datasets.config
    from huggingface_hub import constants

    with Hub() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.address)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "prepared")
        monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds))
        server.slept = slept = []
        new_run(monkeypatch)
        yield server


def new_run(monkeypatch):
    monkeypatch.setattr(hub_store, "COMMITS", {})
    monkeypatch.setattr(hub_store, "FOLDERS", {})


def model_spec(tmp_path, revision=""):
    text = SPEC.format(data="rows.jsonl", model=NAME)
    if revision:
        text = text.replace("[model]", f'[model]\nrevision = "{revision}"')
    return load_spec(write_spec(tmp_path, text))


def identity(tmp_path, said=None, revision=None):
    return base_identity(NAME, tmp_path, revision=revision, say=(said if said is not None else []).append)


def load(spec, tmp_path, said=None):
    from prism.models import load

    return load.load(spec, tmp_path, (said if said is not None else []).append)


def weights(tiny, seed):
    """The tiny model's files with other weights."""
    import torch
    from safetensors.torch import load as read
    from safetensors.torch import save

    generator = torch.Generator().manual_seed(seed)
    tensors = read((tiny / "model.safetensors").read_bytes())
    tensors = {name: torch.randn(value.shape, generator=generator) for name, value in tensors.items()}
    return {**folder_files(tiny), "model.safetensors": save(tensors, {"format": "pt"})}


def first_weight(base):
    return base.model.model.embed_tokens.weight[0, 0].item()


def test_hub_that_moves_gives_one_commit_a_run(hub, tiny, tmp_path, monkeypatch):
    old = hub.commit(f"models/{NAME}", weights(tiny, 1))
    assert identity(tmp_path) == {"hub": NAME, "revision": old}
    new = hub.commit(f"models/{NAME}", weights(tiny, 2))
    loaded = first_weight(load(model_spec(tmp_path), tmp_path))
    assert identity(tmp_path)["revision"] == old
    assert loaded == pytest.approx(first_weight(load(model_spec(tmp_path, old), tmp_path)))
    new_run(monkeypatch)
    assert identity(tmp_path)["revision"] == new
    assert first_weight(load(model_spec(tmp_path), tmp_path)) != loaded


def test_revision_of_the_spec_is_the_one_that_is_loaded(hub, tiny, tmp_path):
    old = hub.commit(f"models/{NAME}", weights(tiny, 1))
    new = hub.commit(f"models/{NAME}", weights(tiny, 2))
    assert identity(tmp_path, revision=old)["revision"] == old
    before = first_weight(load(model_spec(tmp_path, old), tmp_path))
    assert before != first_weight(load(model_spec(tmp_path, new), tmp_path))
    assert not [line for line in hub.log if "/main" in line], "a commit needs no resolution"


def test_an_adapter_is_the_same_by_branch_or_by_commit(hub, tiny, tmp_path):
    from prism.models.identity import adapter_identity

    sha = hub.commit(f"models/{NAME}", folder_files(tiny))
    by_branch, by_commit = (
        adapter_identity(model_spec(tmp_path, name), identity(tmp_path, revision=name), [], 42, tmp_path)
        for name in ("main", sha)
    )
    assert by_branch == by_commit
    assert by_branch["base"] == {"hub": NAME, "revision": sha}


def test_hub_that_hangs(hub, tiny, tmp_path, monkeypatch):
    import httpx
    from huggingface_hub import HfApi

    def hang(*_, **options):
        assert options["timeout"] == 10
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr(HfApi, "repo_info", hang)
    with pytest.raises(ModelError, match=r"the model hub cannot be reached \(timed out\)"):
        identity(tmp_path)


def test_local_folder_has_no_revision(tiny, tmp_path):
    with pytest.raises(ModelError, match=r"is a local folder, which has no revision 'v1'; delete \[model\]\.revision"):
        base_identity(str(tiny), tmp_path, revision="v1")


def test_revision_that_does_not_exist(hub, tiny, tmp_path):
    hub.commit(f"models/{NAME}", folder_files(tiny))
    for revision in ("v9", "0" * 40):
        with pytest.raises(ModelError, match=rf"has no revision {revision}; check \[model\]\.revision"):
            identity(tmp_path, revision=revision)


def test_no_such_repository(hub, tmp_path):
    with pytest.raises(ModelError, match=r"owner/tiny: is neither a local folder nor a hub model .* check \[model\]"):
        identity(tmp_path)


REFUSALS = {
    "gated, no token": (401, {"X-Error-Code": "GatedRepo"}),
    "gated, licence not accepted": (403, {"X-Error-Code": "GatedRepo"}),
    "token without the right": (403, {}),
    "unknown token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
def test_refused_files_name_licence_and_token(hub, tiny, tmp_path, answer):
    hub.commit(f"models/{NAME}", folder_files(tiny))
    hub.gated = answer
    with pytest.raises(ModelError) as error:
        identity(tmp_path)
    assert f"owner/tiny: the hub refuses it ({answer[0]} " in str(error.value)
    assert f"accept its licence on {hub.address}/owner/tiny, set HF_TOKEN (or run `hf auth login`)" in str(error.value)


@pytest.mark.parametrize(
    ("header", "pause"),
    [("7", 7), ("0.5", 1), ("3600", 60), ("1e999", 1), ("nan", 1), ("-5", 1), ("Wed, 25 Nov 2026 07:28:00 GMT", 1)],
)
def test_too_many_requests_are_waited_for(hub, tiny, tmp_path, header, pause):
    sha, said = hub.commit(f"models/{NAME}", folder_files(tiny)), []
    hub.faults = [(429, {"Retry-After": header})]
    assert identity(tmp_path, said)["revision"] == sha
    assert hub.slept == [pause]
    assert said == [f"owner/tiny: the hub answers 429; it is asked again in {pause} s"]


def test_server_error_passes(hub, tiny, tmp_path):
    sha, said = hub.commit(f"models/{NAME}", folder_files(tiny)), []
    hub.faults = [(500, {}), (503, {}), (502, {})]
    assert identity(tmp_path, said)["revision"] == sha
    assert len(said) == 3
    assert hub.slept == [1, 2, 4]


def test_server_errors_that_stay(hub, tiny, tmp_path):
    hub.commit(f"models/{NAME}", folder_files(tiny))
    hub.down = (503, {})
    with pytest.raises(ModelError, match=r"the model hub cannot be reached \(503 Service Unavailable\); put the model"):
        identity(tmp_path)
    assert len(hub.log) == 4, "asked four times, not for ever"


def gate(hub, _):
    hub.gated = (403, {"X-Error-Code": "GatedRepo"})
    hub.commit(f"models/{NAME}", {"config.json": b"{}"})  # or the cache would have the commit's own files


def constant(name, value):
    from huggingface_hub import constants

    return lambda hub, monkeypatch: monkeypatch.setattr(constants, name, value)


FAILURES = {
    "503": lambda hub, _: setattr(hub, "down", (503, {})),
    "429": lambda hub, _: setattr(hub, "down", (429, {})),
    "401": lambda hub, _: setattr(hub, "down", (401, {})),
    "403, gated since": gate,
    "404, renamed or deleted": lambda hub, _: hub.commits.clear(),
    "not there": constant("ENDPOINT", "http://127.0.0.1:9"),
    "offline mode": constant("HF_HUB_OFFLINE", True),
}


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_warm_cache_stands_in_for_a_hub_that_fails(hub, tiny, tmp_path, monkeypatch, fail):
    sha, said = hub.commit(f"models/{NAME}", weights(tiny, 1)), []
    before = first_weight(load(model_spec(tmp_path), tmp_path))
    assert hub_store.recorded("model", NAME, None) == {"revision": sha, "revision_from": "the hub"}
    new_run(monkeypatch)
    fail(hub, monkeypatch)
    assert identity(tmp_path, said)["revision"] == sha
    assert said[-1].endswith(f"revision {sha[:8]} of the local cache is used")
    assert first_weight(load(model_spec(tmp_path), tmp_path)) == before
    assert hub_store.recorded("model", NAME, None)["revision_from"].startswith("the local cache, since the hub did not")


def test_cold_cache_offline(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"owner/tiny: the model hub cannot be reached .*offline.* --prism-data"):
        identity(tmp_path)
    assert hub.log == []


def test_half_a_download_is_not_a_model(hub, tiny, tmp_path, monkeypatch):
    files = weights(tiny, 1)
    sha = hub.commit(f"models/{NAME}", files)
    identity(tmp_path)  # downloads config.json alone
    hub.down = (503, {})
    with pytest.raises(ModelError, match=rf"the local cache lacks \.safetensors file of revision {sha[:8]}.*\(503 "):
        load(model_spec(tmp_path), tmp_path)


def test_pickles_are_not_even_downloaded(hub, tiny, tmp_path):
    files = {name: data for name, data in folder_files(tiny).items() if not name.endswith(".safetensors")}
    hub.commit(f"models/{NAME}", {**files, "pytorch_model.bin": b"pickle"})
    with pytest.raises(ModelError, match=r"contains no \.safetensors file, which PRISM needs"):
        load(model_spec(tmp_path), tmp_path)
    assert not [line for line in hub.log if "pytorch_model.bin" in line]


# Rows

SET = "owner/Tweets"


def rows_spec(tmp_path, more="", path=SET):
    text = SPEC.format(data=path, model="fixtures/models/nano-text").replace("[data]", f"[data]\n{more}")
    return load_spec(write_spec(tmp_path, text))


def lines(rows, word=""):
    return "".join(json.dumps({**row, "tweet": row["tweet"] + word}) + "\n" for row in rows).encode()


def commit_rows(hub, rows, word=""):
    return hub.commit(f"datasets/{SET}", {"README.md": b"---\n{}\n---\n", "train.jsonl": lines(rows, word)})


def read(tmp_path, more="", said=None):
    training, held_out = examples_of(rows_spec(tmp_path, more), tmp_path, say=(said if said is not None else []).append)
    return {example.question for example in (*training, *held_out)}


def test_rows_of_one_commit(hub, rows, tmp_path, monkeypatch):
    old = commit_rows(hub, rows)
    first = read(tmp_path)
    commit_rows(hub, rows, " again")
    assert read(tmp_path) == first, "the run has resolved it"
    assert hub_store.recorded("dataset", SET, None) == {"revision": old, "revision_from": "the hub"}
    new_run(monkeypatch)
    assert read(tmp_path).isdisjoint(first)
    assert read(tmp_path, f'revision = "{old}"') == first


def test_subset_of_a_data_set(hub, rows, tmp_path):
    card = "---\nconfigs:\n- config_name: calm\n  data_files: calm.jsonl\n- config_name: loud\n  data_files: loud.jsonl\n---\n"
    files = {"README.md": card.encode(), "calm.jsonl": lines(rows), "loud.jsonl": lines(rows, "!")}
    hub.commit(f"datasets/{SET}", files)
    assert all(question.endswith("!") for question in read(tmp_path, 'subset = "loud"'))
    with pytest.raises(DataError, match=r"calm.*loud.*name one in \[data\]\.subset"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"name one in \[data\]\.subset"):
        read(tmp_path, 'subset = "quiet"')


@pytest.mark.parametrize("answer", [(503, {}), (403, {}), (401, {}), (404, {"X-Error-Code": "RepoNotFound"})])
def test_rows_of_the_warm_cache(hub, rows, tmp_path, monkeypatch, answer):
    old, said = commit_rows(hub, rows), []
    first = read(tmp_path)
    new_run(monkeypatch)
    new = commit_rows(hub, rows, " again")
    assert read(tmp_path, f'revision = "{new}"') != first  # prepared last, and not what main was
    hub.down = answer
    new_run(monkeypatch)
    assert read(tmp_path, said=said) == first
    assert f"revision {old[:8]} of the local cache is used" in said[-1]
    assert "the local cache" in hub_store.recorded("dataset", SET, None)["revision_from"]


def test_pinned_rows_are_not_exchanged_for_those_prepared_last(hub, rows, tmp_path, monkeypatch):
    old, new = commit_rows(hub, rows), commit_rows(hub, rows, " again")
    first, second = (read(tmp_path, f'revision = "{sha}"') for sha in (old, new))
    hub.down = (403, {})
    new_run(monkeypatch)
    assert read(tmp_path, f'revision = "{old}"') == first != second


def test_rows_of_a_cold_cache(hub, rows, tmp_path):
    commit_rows(hub, rows)
    hub.down = (503, {})
    with pytest.raises(DataError, match=r"owner/Tweets: cannot be downloaded .*\(503 .* pass --prism-data DIR"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"owner/Tweets: .* no revision aaaaaaaa.* pass --prism-data DIR"):
        read(tmp_path, f'revision = "{"a" * 40}"')


def test_gated_rows(hub, rows, tmp_path):
    commit_rows(hub, rows)
    hub.gated = (403, {"X-Error-Code": "GatedRepo"})
    with pytest.raises(DataError, match=r"owner/Tweets: the hub refuses it .*/datasets/owner/Tweets, set HF_TOKEN"):
        read(tmp_path)


def test_prism_data_goes_before_the_hub(hub, rows, tmp_path):
    commit_rows(hub, rows)
    folder = tmp_path / "sets" / "tweets"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(lines(rows, " at hand"))
    spec = rows_spec(tmp_path, 'name = "tweets"\nsubset = "calm"\nrevision = "v1"')
    training, _ = examples_of(spec, tmp_path, tmp_path / "sets")
    assert all(example.question.endswith(" at hand") for example in training)
    assert hub.log == []


def test_local_rows_have_neither_revision_nor_subset(tmp_path, rows):
    (tmp_path / "mine.jsonl").write_bytes(lines(rows))
    for key in ("revision", "subset"):
        with pytest.raises(DataError, match=rf"\./mine\.jsonl: is local, and has no {key} 'x'; delete \[data\]\.{key}"):
            examples_of(rows_spec(tmp_path, f'{key} = "x"', "./mine.jsonl"), tmp_path)


# Whole runs, each in a process that has just started


def run(checkout, hub, *options):
    """A pytest run whose only hub is `hub`, with the user's opt-outs removed."""
    environment = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key and key != "DO_NOT_TRACK"}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(checkout.path / "hf")}
    environment.pop("CI", None)  # TRL calls nobody under CI
    command = [sys.executable, "-m", "pytest", "benchmarks", "-m", "phase1", "--prism-profile", "nano", *options]
    return subprocess.run(
        command, cwd=checkout.path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_run_on_local_folders_asks_nobody(checkout):
    with Hub() as hub:
        done = run(checkout, hub)
        assert "2 passed" in done.stdout, done.stdout + done.stderr
        assert hub.log == []


@pytest.mark.slow
def test_nano_run_on_the_hub_asks_for_what_it_needs(checkout, tiny, rows):
    with Hub() as hub:
        model = hub.commit(f"models/{NAME}", folder_files(tiny))
        data = commit_rows(hub, rows)
        write_spec(checkout.path, SPEC.format(data=SET, model=NAME))
        done = run(checkout, hub)
        assert "2 passed" in done.stdout, done.stdout + done.stderr
        assert f"owner/tiny: downloading revision {model[:8]} from the hub" in done.stderr
        details = results(checkout)["specs"][0]["details"]
        assert details["data"]["revision"] == data
        assert details["digests"]["base"] == f"{NAME}@{model}"
        assert details["model"] == {"revision": model, "revision_from": "the hub"}
        adapter = next((checkout.path / "home" / "adapters").glob("*/adapter_config.json"))
        made_on = json.loads(adapter.read_text())
        assert (made_on["base_model_name_or_path"], made_on["revision"]) == (NAME, model)
        assert not [line for line in hub.log if "telemetry" in line]
        assert not [agent for agent in hub.agents if "torch/" in agent and not agent.startswith("datasets/")]
        assert [line for line in hub.log if "/main" in line] == [
            f"GET /api/datasets/{SET}/revision/main",
            f"GET /api/models/{NAME}/revision/main",
        ]
        hub.down = (403, {})
        again = run(checkout, hub)
        assert "2 passed" in again.stdout, again.stdout + again.stderr
        assert f"{NAME}: the hub does not give it (403 Forbidden); revision {model[:8]} of the local" in again.stderr
        details = results(checkout)["specs"][0]["details"]
        assert details["digests"]["base"] == f"{NAME}@{model}"
        for what in ("data", "model"):
            assert details[what]["revision_from"] == "the local cache, since the hub did not give it (403 Forbidden)"


def test_what_a_user_has_set_stays():
    code = "import os, prism; print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['UNSLOTH_DISABLE_STATISTICS'])"
    environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "0", "PYTHONPATH": str(ROOT)}
    environment.pop("UNSLOTH_DISABLE_STATISTICS", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


def test_finished_adapter_of_one_commit_and_without_pickles(hub, tmp_path):
    from prism.store.adapters import CONFIG, WEIGHTS, find_adapter

    config = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "somebody/base"}).encode()
    files = {CONFIG: config, WEIGHTS: b"first", "adapter_model.bin": b"pickled", "tokenizer_config.json": b"{}"}
    first = hub.commit("models/somebody/adapter", files)
    folder, identity = find_adapter("somebody/adapter", tmp_path, "adapter", [].append)
    assert identity["revision"] == first
    assert identity["files"].keys() == {CONFIG, WEIGHTS, "tokenizer_config.json"}
    assert not (folder / "adapter_model.bin").exists()
    hub.commit("models/somebody/adapter", files | {WEIGHTS: b"second"})
    assert find_adapter("somebody/adapter", tmp_path, "adapter", [].append) == (folder, identity), "in one run"
