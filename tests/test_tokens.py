"""Training rows as tokens are those that TRL makes of prompt and completion."""

import pytest
from datasets import Dataset
from trl import SFTTrainer

from prism.models import load, tokens, train
from prism.spec import load_spec
from tests.conftest import ROOT, SPEC, examples_of, write_rows, write_spec


@pytest.mark.parametrize(
    "options",
    [{}, {"completion_only_loss": False}, {"max_length": 82}, {"packing": True, "max_length": 128}],
    ids=["as it is", "the prompt counts", "cut", "packed"],
)
def test_tokens_and_labels_are_those_of_the_library(tiny, rows, tmp_path, options):
    data = write_rows(tmp_path / "rows.jsonl", rows)
    spec = load_spec(write_spec(tmp_path, SPEC.format(data=data, model=tiny)))
    spec = spec.model_copy(update={"sft": spec.sft | options})
    base, examples = load.load(spec, ROOT), examples_of(spec, ROOT)[0]
    asked = [
        {"prompt": list(e.messages), "completion": [{"role": "assistant", "content": e.reference}]} for e in examples
    ]
    config = train.sft_config(spec, tmp_path, 42)
    model = load.add_adapter(base, 42)
    found, expected = (
        SFTTrainer(model, config, train_dataset=made, processing_class=base.tokenizer).train_dataset
        for made in (tokens.dataset(base, examples), Dataset.from_list(asked))
    )
    for column in ("input_ids", "labels"):
        assert found[column] == expected[column]
    told = tokens.lengths(base, found, examples)
    assert told[0] == [len(ids) for ids in expected["input_ids"]]
    assert told[1] == sum(label != -100 for labels in expected["labels"] for label in labels)
