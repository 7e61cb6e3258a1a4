"""The text of the files that `prism init` writes: a spec, a benchmark, settings of pytest, a workflow, rows to begin with."""

from __future__ import annotations

import itertools

from prism import __version__

PLUGINS = "-p no:deepeval -p no:rerunfailures -p no:repeat -p no:asyncio -p no:anyio"
CONFTEST = 'pytest_plugins = ["prism.plugin.hooks"]\n'
PYTEST_INI = f"""[pytest]
# DeepEval brings plugins along that would slow every start and retry failed gates; a retried gate is no gate.
addopts = {PLUGINS}
"""
IGNORED = "/runs/\n/.latest-*\n/latest\n/view.html\n/*.xml\n"

BENCHMARK = '''"""Does the model of each spec in benchmarks/specs/{phase} pass the thresholds of its [gate]?"""

import pytest

pytestmark = pytest.mark.{phase}


def test_thresholds(spec, threshold, run):
    run.check(threshold)
'''

WORKFLOW = f"""# The gate: every spec of benchmarks/specs that this machine can run. The job's summary shows the report, a threshold that
# fails is marked in the diff, and an artifact holds the whole report.
name: prism
on:
  pull_request:
  workflow_dispatch:

permissions:
  contents: read

jobs:
  gate:
    runs-on: ubuntu-latest
    timeout-minutes: 60
    steps:
      - uses: actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0
        with: {{ persist-credentials: false }}
      - uses: actions/setup-python@e797f83bcb11b83ae66e0230d6156d7c80228e7c # v6.0.0
        with: {{ python-version: "3.11" }}
      - run: pip install "pytest-prism=={__version__}" pytest-github-actions-annotate-failures
        env:
          PIP_EXTRA_INDEX_URL: https://download.pytorch.org/whl/cpu # a runner has no GPU
      - run: pytest benchmarks
      - uses: actions/upload-artifact@330a01c490aca151604b8cf639adc76d48f6c5d4 # v5.0.0
        if: always()
        with:
          name: prism-report
          path: reports/runs/
          if-no-files-found: ignore
"""

SPEC = """#:schema ../schema.json
# Written by prism init; every line is yours to change.
title    = {title}
task     = {task}
profile  = "nano"                     # run where there is no GPU; small and full: --prism-profile
{adapter}
[data]
path  = {path}
{data}
[model]
model_name = {model}
max_seq_length = {window}
{image}{training}
[generate]
max_new_tokens = {new_tokens}
{table}
{gate}"""

TRAINING = """
[lora]
r = 16
lora_alpha = 32
{where}

[sft]{device}
num_train_epochs = 3
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
gradient_checkpointing = false
learning_rate = 1e-3
lr_scheduler_type = "cosine"
"""
ON_CPU = """
use_cpu = true                        # without a GPU; delete it and the next line where there is one
bf16 = false"""

GATE = """# A gain of 0 holds if the adapter is shown to be better than the base: its 95 % interval lies above 0. How much better it
# must be, and floors, `prism thresholds {id}` proposes from a measured run.
"""
CLOSED = """[gate.tier1]
accuracy        = { gain = 0.0 }
knowledge_gain  = { gain = 0.0 }        # beyond learning to answer by a label
unparsable_rate = { ceiling = 0.05, provisional = "prism init; not measured" }
"""
OPEN = """[gate.tier1]
f1           = { gain = 0.0 }
[gate.tier2]
content_gain = { gain = 0.0 }           # beyond the style of the answers
"""


def training(*, pictures: bool, on_cpu: bool) -> str:
    """The tables [lora] and [sft] of an adapter that is trained; one of `pictures` leaves the vision tower as it is."""
    where = (
        'placement = ["language", "projector"]  # the tower stays as it is'
        if pictures
        else 'target_modules = "all-linear"'
    )
    return TRAINING.format(where=where, device=ON_CPU if on_cpu else "")


def sample_rows() -> str:
    """180 messages to a shop in three labels, as CSV: made up, to try PRISM with, and no data to learn from."""
    openings = ("Hello,", "Hi there,", "Order 42:", "Dear team,", "As of today,")
    said = {
        "refund": (
            "please send my money back",
            "I want to return the lamp",
            "cancel it and pay me back",
            "take it back",
        ),
        "complaint": (
            "nobody answers the phone",
            "the parcel came broken",
            "this is the third delay",
            "it never works",
        ),
        "praise": ("thank you, it is lovely", "the best shop in town", "quick and friendly", "my kids adore the kite"),
    }
    endings = (" as soon as you can", " once more", "")
    lines = [
        f'"{opening} {text}{ending}.",{label}'
        for opening, ending, n in itertools.product(openings, endings, range(4))
        for label, texts in said.items()
        for text in [texts[n]]
    ]
    return "\n".join(["text,label", *lines]) + "\n"
