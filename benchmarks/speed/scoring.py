"""How long does scoring 2,000 generated answers on tiers 1 and 2 take? The exit code is 1 above the budget.

    python -m benchmarks.speed.scoring

Seconds are CPU time of one core, so that other load does not count. There are two figures per tier: every metric on one
set of answers, which the budget limits; and a whole run's scoring, with baseline and tuned answers, shuffled references
and bootstrap intervals.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy reads them on import

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
        metrics = load_task(spec).metrics
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
    """Long answers; most name a label."""
    examples = [example(i, chance.choice(LABELS)) for i in range(ANSWERS)]
    answers = [[f"{chance.choice([*LABELS, 'unsure'])} {text(chance)}" for _ in examples] for _ in range(2)]
    return examples, *answers


def sentences(chance: random.Random) -> tuple[list[Example], list[str], list[str]]:
    examples = [example(i, text(chance)) for i in range(ANSWERS)]
    return examples, *([text(chance) for _ in examples] for _ in range(2))


def example(place: int, reference: str) -> Example:
    return Example(str(place), ({"role": "user", "content": f"What is number {place}?"},), reference, str(place))


def text(chance: random.Random) -> str:
    """5 to 60 words from the lexicon, common or made up, so that stemming and term search have work to do."""
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
