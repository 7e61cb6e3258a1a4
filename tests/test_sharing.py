"""An adapter handed on: its card says what was measured and how well that is known, and `prism push` uploads both."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard

from prism.report.card import card
from prism.spec import load_spec
from prism.store import Store, digest
from prism.verdicts.record import Score, run_to_json
from tests.conftest import ROOT, SPEC, write_spec
from tests.loopback_hub import Hub
from tests.test_report import HOSTILE, made_up_run, record, sentiment

IDENTITY = {"rows": "ab", "seed": 42}
ADAPTER = digest(IDENTITY)
PATH_OF_THIS_MACHINE = "/home/somebody/models/tiny"


def measured(**given):
    result = sentiment()
    told = {**result.details, "digests": {"evaluation": "ab" * 32, "adapters": {"42": ADAPTER, "43": "c" * 64}}}
    return replace(result, **{"details": told, **given})


@pytest.fixture
def shop(tmp_path) -> Path:
    """A checkout with one spec, a run that measured it, and a store with its adapter."""
    text = SPEC.format(data="data/rows", model="models/tiny")
    write_spec(tmp_path, text, "nano")
    for folder in ("data/rows", "models/tiny"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/rows/README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Rows\n")
    (tmp_path / "models/tiny/README.md").write_text("# No metadata\n")
    write_run(tmp_path, made_up_run(results=(measured(),)))

    def work(folder: Path) -> dict:
        config = {"peft_type": "LORA", "base_model_name_or_path": PATH_OF_THIS_MACHINE, "r": 4}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "adapter_model.safetensors").write_bytes(b"weights" * 100)
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
        return {"loss": []}

    Store(tmp_path / "home").make("adapters", IDENTITY, work)
    return tmp_path


def write_run(root: Path, run) -> None:
    folder = root / "reports" / "runs" / run.id
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(run_to_json(run)))


def made(shop: Path, result=None, **given) -> ModelCard:
    run = made_up_run(results=(result or measured(),))
    spec = load_spec(shop / "benchmarks/specs/phase1/nano.toml")
    known = {"repo": "owner/adapter", "licence": "mit", **given}
    return card(run, run.results[0], ADAPTER, spec, shop, **known)


def test_the_card_has_the_metrics_with_their_intervals(shop):
    found = made(shop)
    accuracy = next(one for one in found.data.eval_results if one.metric_type == "accuracy")
    assert isinstance(accuracy, EvalResult)
    assert accuracy.metric_value == 0.734124
    assert accuracy.metric_args["ci95"] == [0.697, 0.768]
    assert accuracy.metric_args["gain_ci95"] == [0.372, 0.471]
    assert accuracy.metric_args["n"] == 600
    assert "| accuracy | 600 | .312 | .734 [.697, .768] | +.422 [+.372, +.471] |" in found.text
    assert "Values are means over 2 training seeds" in found.text
    again = ModelCard(str(found))
    assert again.data.to_dict() == found.data.to_dict(), "it is read back as it was written"


def test_the_card_says_what_speaks_against_the_adapter(shop):
    text = made(shop).text
    assert re.search(r"- weighted\S*f1, floor ≥ \.8: fails \(0\.7100 \S+ 0\.8\)\.", text)
    assert "no decision about a patient or about money should rest on its answers alone" in text
    assert "The run was partial: 2 of 9 thresholds" in text


def test_the_card_names_data_base_and_licences_where_they_are_known(shop):
    found = made(shop)
    assert found.data.license == "mit"
    assert "| base model | models/tiny |" in found.text
    assert "data/rows (cc-by-4.0): 1,500 training rows, 600 held out" in found.text
    assert found.data.base_model is None, "a folder of this machine is no model of the hub"
    assert found.data.datasets is None
    unknown = made(shop, licence=None)
    assert unknown.data.license is None
    assert "not stated: ask its owner" in unknown.text


def test_the_card_of_a_hub_model_links_base_and_data(shop):
    text = SPEC.format(data="owner/rows", model="owner/base")
    write_spec(shop, text, "nano")
    found = made(shop)
    assert (found.data.base_model, found.data.datasets) == ("owner/base", ["owner/rows"])
    assert 'AutoModelForCausalLM.from_pretrained("owner/base")' in found.text


def test_the_base_is_that_of_the_run_whatever_the_spec_names_today(shop):
    told = measured().details
    told = {**told, "options": {**told["options"], "model": {"model_name": "owner/former"}}}
    found = made(shop, measured(details=told))
    assert found.data.base_model == "owner/former"
    assert 'AutoModelForCausalLM.from_pretrained("owner/former")' in found.text


def test_a_metric_against_a_control_is_told_as_its_gain(shop):
    ahead = record("knowledge_gain", against="label_likelihood", gain=Score(0.28, (0.23, 0.33), 0.0001))
    found = made(shop, measured(records=(ahead,)))
    [told] = found.data.eval_results
    assert (told.metric_value, told.metric_args["ci95"]) == (0.28, [0.23, 0.33])
    assert told.metric_args["over"] == "label_likelihood"
    assert "| knowledge_gain | 600 | – | – | +.280 [+.230, +.330] over label likelihood |" in found.text


def test_an_unknown_interval_and_an_unscored_metric_are_no_numbers(shop):
    unknown = Score(0.7, (float("nan"), float("nan")), rule="unknown: 6 effective groups")
    nothing = Score(float("nan"), (float("nan"), float("nan")))
    records = (record(tuned=unknown), record("rougeL", tuned=nothing, gain=nothing, baseline=nothing))
    found = made(shop, measured(records=records))
    assert [one.metric_type for one in found.data.eval_results] == ["accuracy"]
    assert "ci95" not in found.data.eval_results[0].metric_args  # the card leaves null out
    assert ".700 [unknown]" in found.text
    assert not re.search(r"\bnan\b", str(found), re.IGNORECASE)


def test_text_of_the_spec_is_inert_in_the_card(shop):
    text = made(shop, measured(title=HOSTILE)).text
    assert "<script>" not in text
    assert "[x](https://evil.example)" not in text


def prism(shop: Path, *arguments: str, token: str = "hf_secret", endpoint: str = "http://127.0.0.1:9"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint, "HF_HOME": str(shop / "hf")}
    environment |= {"HF_TOKEN": token} if token else {}
    for name in () if token else ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "prism.cli", *arguments, "--root", str(shop), "--reports", str(shop / "reports")]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=shop)


def push(shop: Path, *arguments: str, **given):
    return prism(shop, "push", *arguments, "--home", str(shop / "home"), **given)


def test_card_prints_what_push_uploads_and_asks_nobody(shop):
    done = prism(shop, "card", "phase1/nano", "--repo", "owner/adapter", "--licence", "mit")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(made(shop)).strip()
    assert done.stderr == ""
    by_digest = prism(shop, "card", ADAPTER[:12], "--repo", "owner/adapter", "--licence", "mit")
    assert by_digest.stdout == done.stdout


def test_push_uploads_adapter_and_card_in_one_commit(shop):
    stored = shop / "home" / "adapters" / ADAPTER
    before = {file: file.read_bytes() for file in stored.rglob("*") if file.is_file()}
    with Hub() as hub:
        done = push(shop, "nano", "owner/adapter", "--licence", "mit", endpoint=hub.address)
        assert done.returncode == 0, done.stderr
        [(sha, files)] = hub.commits["models/owner/adapter"].items()
        assert done.stdout.strip() == f"{hub.address}/owner/adapter/commit/{sha}"
        assert hub.made == {"models/owner/adapter": True}, "private unless --public"
        assert hub.tokens == {"Bearer hf_secret"}
        assert not [line for line in hub.log if "telemetry" in line]
    assert files.keys() == {"README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    assert files["adapter_model.safetensors"] == b"weights" * 100
    assert files["README.md"].decode() == str(made(shop))
    assert json.loads(files["adapter_config.json"]) == {
        "peft_type": "LORA",
        "base_model_name_or_path": "models/tiny",
        "r": 4,
    }
    assert not [name for name, data in files.items() if PATH_OF_THIS_MACHINE.encode() in data]
    assert {file: file.read_bytes() for file in stored.rglob("*") if file.is_file()} == before
    assert Store(shop / "home").find("adapters", IDENTITY) == stored, "the stored adapter is what it was"


def test_a_public_repository_is_asked_for(shop):
    with Hub() as hub:
        done = push(shop, ADAPTER[:8], "owner/adapter", "--public", endpoint=hub.address)
        assert done.returncode == 0, done.stderr
        assert hub.made == {"models/owner/adapter": False}


def test_push_without_a_token_asks_nobody(shop):
    with Hub() as hub:
        done = push(shop, "nano", "owner/adapter", token="", endpoint=hub.address)
        assert hub.log == []
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "prism: owner/adapter: there is no token of the hub to push with; set HF_TOKEN, or run `hf auth login`, with "
        "write access\n"
    )


@pytest.mark.parametrize(
    ("down", "said"),
    [((403, {}), "403 Forbidden"), ((401, {}), "401 Unauthorized"), (None, "refused")],
    ids=["forbidden", "unknown token", "no hub"],
)
def test_a_push_that_the_hub_refuses_is_one_sentence(shop, down, said):
    with Hub() as hub:
        hub.down = down
        endpoint = hub.address if down else "http://127.0.0.1:9"
        done = push(shop, "nano", "owner/adapter", endpoint=endpoint)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"prism: owner/adapter: the hub at \S+ does not take it \(.*\); check the name .*\n", done.stderr
    )
    assert said in done.stderr


def test_what_no_run_has_measured_is_not_pushed(shop):
    done = push(shop, "phase1/other", "owner/adapter")
    assert done.returncode == 2
    assert "phase1/other: no run under" in done.stderr
    shutil.rmtree(shop / "home")
    gone = push(shop, "nano", "owner/adapter")
    assert gone.returncode == 2
    assert f"{ADAPTER}: is not in the store; pass the --home of run" in gone.stderr


def test_a_damaged_adapter_is_not_pushed(shop):
    (shop / "home" / "adapters" / ADAPTER / "adapter_model.safetensors").write_bytes(b"other")
    with Hub() as hub:
        done = push(shop, "nano", "owner/adapter", endpoint=hub.address)
        assert hub.log == []
    assert done.returncode == 2
    assert "is damaged; run the benchmarks again" in done.stderr
