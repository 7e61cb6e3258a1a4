"""How long does scoring phase 3 take? `python -m benchmarks.speed.finance_scoring [ANSWERS]`, on one core.

The answers to the bundled questions alternate between right and wrong, and are all different, so that no cache helps.
Every metric of tiers 1 and 2 scores them once, including its loading.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from prism.rows.examples import load_examples
from prism.spec import load_spec
from prism.tasks import finance_qa, load_task

ROOT = Path(__file__).parents[2]


def main(n: int) -> None:
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase3" / "nano.toml")
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"train_rows": None, "eval_rows": None})})
    known = [example for part in load_examples(spec, load_task(spec), ROOT) for example in part]
    examples = [replace(known[i % len(known)], id=str(i)) for i in range(n)]
    answers = []
    for i, example in enumerate(examples):
        text, _, quote = (example if i % 2 else examples[i - 1]).reference.partition("\n")
        answers.append(f"{text} \n{quote}{' ' * (i // len(known))}\nin {i}" if i % 3 else f"{i} - {text}\n{quote}")
    began = time.process_time()
    for metric in finance_qa.METRICS:
        start = time.process_time()
        metric.statistics(examples, answers)
        print(f"{metric.name:32} {time.process_time() - start:6.2f} s")
    print(f"{n:,} answers, {len(set(answers)):,} of them different: {time.process_time() - began:.1f} s of CPU time")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000)
