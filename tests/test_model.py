"""Models and adapters that must not be loaded, and identities that tell them apart."""

import json
import shutil

import pytest
import torch

from prism.errors import ModelError
from prism.models import adapters, load
from prism.models.bounds import require_bounded
from prism.models.identity import adapter_identity
from prism.spec import load_spec
from prism.store.sources import base_identity
from tests.conftest import SPEC, write_spec


@pytest.fixture
def base_copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "base")


def spec_on(folder, tmp_path, **lora):
    spec = load_spec(write_spec(tmp_path, SPEC.format(data="rows.jsonl", model=folder)))
    return spec.model_copy(update={"lora": {**spec.lora, **lora}})


def test_missing_folder(tmp_path):
    with pytest.raises(ModelError, match=r"fixtures/models/none: no such model folder under .*model_name"):
        base_identity("fixtures/models/none", tmp_path)


def test_folder_without_a_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="contains no config.json"):
        base_identity("./empty", tmp_path)


def test_remote_code(base_copy, tmp_path):
    config = json.loads((base_copy / "config.json").read_text())
    (base_copy / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ModelError, match=r"config\.json: needs remote code \(auto_map\), which PRISM never runs"):
        load.load(spec_on(base_copy, tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"attn_implementation": "owner/kernel"}, "attn_implementation = 'owner/kernel' names code of the hub"),
        ({"text_config": {"_attn_implementation": "owner/kernel@main:f"}}, "names code of the hub, which PRISM never"),
        ({"attn_implementation": {"vision": "owner/kernel"}}, "names code of the hub"),
        ([1], r"config\.json: is a list and no JSON object; restore the file"),
        ("[" * 100_000, "is not JSON .it is nested too deeply"),
        ({"hidden_size": "many"}, "cannot be loaded"),
        ({"num_hidden_layers": {}}, "cannot be loaded"),
    ],
)
def test_configuration_that_names_code_or_is_none(base_copy, tmp_path, change, sentence):
    config = json.loads((base_copy / "config.json").read_text())
    changed = config | change if isinstance(change, dict) else change
    (base_copy / "config.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(ModelError, match=sentence):
        load.load(spec_on(base_copy, tmp_path), tmp_path)


@pytest.mark.parametrize("part", ["../other/model.safetensors", "/etc/model.safetensors", 3])
def test_index_of_weights_in_another_folder(base_copy, tmp_path, part):
    index = {"metadata": {}, "weight_map": {"a": part}}
    (base_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="its weight_map names no plain files of this folder"):
        load.load(spec_on(base_copy, tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x", "runs for over 10 s"),
        ("{{ 'a' * 3000000000 }}", "takes over 1 GiB"),
        ("{% for a in range(99999) %}{{ 'a' * 99 }}{% endfor %}", "over a million characters"),
        ("{#" + "a" * 1_000_001 + "#}", "has 1,000,005 characters"),
    ],
)
def test_template_without_end(template, sentence):
    with pytest.raises(ModelError, match=rf"owner/name: the chat template .*{sentence}"):
        require_bounded(template, "owner/name")


def test_pickled_base(base_copy, tmp_path):
    (base_copy / "model.safetensors").unlink()
    torch.save({}, base_copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickled model can run any code; convert it to safetensors"):
        load.load(spec_on(base_copy, tmp_path), tmp_path)


def test_base_cut_short(base_copy, tmp_path):
    weights = base_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load.load(spec_on(base_copy, tmp_path), tmp_path)


def test_no_chat_template(base_copy, tmp_path):
    (base_copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="the tokenizer has no chat template"):
        load.load(spec_on(base_copy, tmp_path), tmp_path)


def test_no_end_token(base_copy, tmp_path):
    table = json.loads((base_copy / "tokenizer_config.json").read_text())
    (base_copy / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in table.items() if k != "eos_token"}))
    with pytest.raises(
        ModelError, match=r"the tokenizer has no end token; set eos_token in its tokenizer_config\.json"
    ):
        load.load(spec_on(base_copy, tmp_path), tmp_path)


def test_hub_that_cannot_be_reached(tmp_path):
    with pytest.raises(ModelError, match=r"owner/name: the model hub cannot be reached .* local folder .*--prism-data"):
        base_identity("owner/name", tmp_path)


def test_adapter_that_is_a_pickle(tiny, tmp_path):
    base = load.load(spec_on(tiny, tmp_path), tmp_path)
    adapter = tmp_path / "adapter"
    load.add_adapter(base, 42).save_pretrained(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin: a pickled adapter can run any code"):
        adapters.load_adapter(load.load(spec_on(tiny, tmp_path), tmp_path), adapter)


def test_adapter_of_another_base(tiny, tmp_path):
    base = load.load(spec_on(tiny, tmp_path), tmp_path)
    adapter = tmp_path / "adapter"
    load.add_adapter(base, 42).save_pretrained(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 7}))
    with pytest.raises(ModelError, match="does not fit the base"):
        adapters.load_adapter(load.load(spec_on(tiny, tmp_path), tmp_path), adapter)


def test_no_adapter_there(tiny, tmp_path):
    with pytest.raises(ModelError, match="contains no adapter_config.json"):
        adapters.load_adapter(load.load(spec_on(tiny, tmp_path), tmp_path), tmp_path)


def test_identity_of_an_adapter_covers_what_made_it(tiny, tmp_path, rows):
    from prism.tasks.financial_sentiment import example

    training = [example(row, str(n)) for n, row in enumerate(rows)]
    spec = spec_on(tiny, tmp_path)
    base = base_identity(str(tiny), tmp_path)
    identity = adapter_identity(spec, base, training, 42, tmp_path)
    assert identity == adapter_identity(
        spec.model_copy(update={"title": "other", "gate": {}}), base, training, 42, tmp_path
    )
    others = [
        adapter_identity(spec, base, training, 43, tmp_path),
        adapter_identity(spec, base, training[::-1], 42, tmp_path),
        adapter_identity(spec, {"bytes": "other"}, training, 42, tmp_path),
        adapter_identity(spec_on(tiny, tmp_path, r=8), base, training, 42, tmp_path),
    ]
    assert all(other != identity for other in others)


def test_identity_of_an_adapter_covers_what_a_named_file_holds(tiny, tmp_path):
    template = tmp_path / "chat.jinja"
    spec = spec_on(tiny, tmp_path)
    spec = spec.model_copy(update={"sft": {**spec.sft, "chat_template_path": template.name}})
    found = []
    for text in ("one", "two", "one"):
        template.write_text(text)
        found.append(adapter_identity(spec, {"bytes": "base"}, [], 42, tmp_path))
    assert found[0] == found[2] != found[1]


def test_the_place_of_a_base_does_not_matter(tiny, base_copy, tmp_path):
    assert base_identity(str(tiny), tmp_path) == base_identity(str(base_copy), tmp_path)
