"""What `benchmarks.speed.evaluating` compares with: lm-evaluation-harness asks a base and its adapter on a CPU.

    PYTHON harness.py MODEL FOLDER NEW_TOKENS

It runs in an environment of its own, so it imports nothing of PRISM. FOLDER has `prompts.jsonl` and `adapter`. The tasks
are what an outsider would write as YAML: greedy answers up to the end of the turn, and a choice among the labels.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

BATCH = 64
DATA = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
doc_to_text: "{{{{prompt}}}}"
target_delimiter: ""
num_fewshot: 0
"""
ANSWERS = """task: answers
output_type: generate_until
doc_to_target: "{{{{choices[label]}}}}"
generation_kwargs: {{until: ["{end}"], max_gen_toks: {new_tokens}, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
LABELS = """task: labels
output_type: multiple_choice
doc_to_target: label
doc_to_choice: choices
metric_list: [{metric: acc}]
"""


def main(model: str, folder: Path, new_tokens: str) -> None:
    start = time.perf_counter()
    import lm_eval  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    file = folder / "prompts.jsonl"
    with file.open(encoding="utf-8") as rows:
        ids = [(row := json.loads(line))["id"] for line in rows]
    tasks = folder / "tasks"
    tasks.mkdir()
    data = DATA.format(file=file)
    (tasks / "answers.yaml").write_text(ANSWERS.format(end=row["end"], new_tokens=new_tokens) + data)
    (tasks / "labels.yaml").write_text(LABELS + data)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    parts = {"imports": time.perf_counter() - start}

    def ask(part: str, names: list[str], **adapter: str) -> dict[str, list[dict[str, Any]]]:
        began = time.perf_counter()
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": model, "dtype": "float32", **adapter},
            tasks=names,
            task_manager=manager,
            device="cpu",
            batch_size=BATCH,
            bootstrap_iters=0,
        )
        parts[part] = time.perf_counter() - began
        return {name: sorted(found["samples"][name], key=lambda said: ids.index(said["doc"]["id"])) for name in names}

    base = ask("base answers and likelihoods", ["answers", "labels"])
    tuned = ask("tuned answers", ["answers"], peft=str(folder / "adapter"))
    said = {
        "base": [one["resps"][0][0] for one in base["answers"]],
        "tuned": [one["resps"][0][0] for one in tuned["answers"]],
        "likelihoods": [[label[0][0] for label in one["resps"]] for one in base["labels"]],
        "parts": parts,
        "version": version("lm_eval"),
    }
    (folder / "harness.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
