"""How long do 2,000 answers take on tiers 1 and 2? Generated text; fails above the budget.

    python -m benchmarks.speed.scoring

Seconds are of one core's time, so that other work on the machine does not count. Two figures a tier: one set of answers
scored by every metric, which the budget is for; and what a run does, which is baseline and tuned answers, shuffled
references and bootstrap intervals.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported

import random
import sys
import time
from pathlib import Path

from prism.metrics.coverage import LEXICONS, load_lexicon
from prism.rows import Example
from prism.spec import load_spec
from prism.tasks import load_task
from prism.tasks.financial_sentiment import LABELS
from prism.verdicts.scoring import samples, score

ANSWERS, WORDS, BUDGET = 2_000, 60, 10.0  # answers, words at most, seconds
SPECS = Path(__file__).parent.parent / "specs"
COMMON = "the of a and in is to that with which by for from as or an are this when it may cause type form part"


def main() -> int:
    chance = random.Random(42)
    total = 0.0
    for tier, name, generate in (("tier 1", "phase1/nano", labels), ("tier 2", "phase2/nano", sentences)):
        examples, before, after = generate(chance)
        spec = load_spec(SPECS / f"{name}.toml")
        start = time.process_time()
        metrics = load_task(spec.task).metrics
        for metric in metrics:
            metric.value(metric.statistics(examples, after).sum(0))
        scored = time.process_time()
        score(spec, metrics, examples, "", before, {42: after}, {})
        samples(metrics, examples, before, after)
        run = time.process_time() - scored
        total += scored - start
        print(f"{tier}: {len(examples):,} answers {scored - start:.1f} s; a whole run's scoring {run:.1f} s more")
    print(f"{ANSWERS:,} answers on tiers 1 and 2: {total:.1f} s of one core; the budget is {BUDGET:g} s")
    return int(total > BUDGET)


def labels(chance: random.Random) -> tuple[list[Example], list[str], list[str]]:
    """Long answers, of which most name a label."""
    examples = [example(i, chance.choice(LABELS)) for i in range(ANSWERS)]
    answers = [[f"{chance.choice([*LABELS, 'unsure'])} {text(chance)}" for _ in examples] for _ in range(2)]
    return examples, *answers


def sentences(chance: random.Random) -> tuple[list[Example], list[str], list[str]]:
    examples = [example(i, text(chance)) for i in range(ANSWERS)]
    return examples, *([text(chance) for _ in examples] for _ in range(2))


def example(place: int, reference: str) -> Example:
    return Example(str(place), ({"role": "user", "content": f"What is number {place}?"},), reference, str(place))


def text(chance: random.Random) -> str:
    """5 to 60 words, of the lexicon, common or made up, so that stemming and the search for terms have work to do."""
    words: list[str] = []
    length = chance.randint(5, WORDS)
    while len(words) < length:
        kind = chance.random()
        if kind < 0.2:
            words += chance.choice(TERMS).split()
        elif kind < 0.7:
            words.append(chance.choice(COMMON.split()))
        else:
            words.append(chance.choice(RARE))
    return " ".join(words[:length])


RARE = ["".join(random.Random(i).choices("abcdefghilmnoprstu", k=3 + i % 9)) for i in range(5_000)]
TERMS = sorted(
    {form.concept for same_start in load_lexicon(LEXICONS / "medical.txt").forms.values() for form in same_start}
)

if __name__ == "__main__":
    sys.exit(main())
