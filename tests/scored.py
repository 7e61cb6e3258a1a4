"""Made-up scores of a spec, through the functions that a run uses: examples of three labels, answers right or wrong."""

from collections.abc import Collection, Mapping
from pathlib import Path

from prism.rows import Example
from prism.spec import Spec, load_spec
from prism.tasks import load_task
from prism.verdicts.scores import Scores, measured
from prism.verdicts.scoring import score
from tests.conftest import SPEC, write_spec

LABELS = ("neutral", "bullish", "bearish")
EVALUATION = "ab" * 32


def tiny_spec(folder: Path, text: str = SPEC) -> Spec:
    return load_spec(write_spec(folder, text.format(data="rows.jsonl", model="fixtures/models/nano-text")))


def examples(n: int, groups: int = 0) -> list[Example]:
    """`groups`: how many samples share one; each has its own if that is 0."""
    return [
        Example(
            f"{i:012x}",
            ({"role": "user", "content": f"q{i}"},),
            LABELS[i % 3],
            f"topic {i // groups}" if groups else f"{i:012x}",
        )
        for i in range(n)
    ]


def answers(n: int, wrong: Collection[int] = (), silent: Collection[int] = ()) -> list[str]:
    return ["" if i in silent else LABELS[(i + (i in wrong)) % 3] for i in range(n)]


def scored(
    spec: Spec,
    said: Mapping[int, list[str]],
    *,
    evaluation: str = EVALUATION,
    groups: int = 0,
    training: Mapping[str, object] = {"sft": {"learning_rate": 1e-3}, "rows": "cd" * 32},
) -> Scores:
    n = len(next(iter(said.values())))
    held_out = examples(n, groups)
    metrics = load_task(spec).metrics
    records = score(spec, metrics, held_out, evaluation, answers(n, range(0, n, 2)), said, {})
    return measured(spec, records, held_out, said, metrics, training, {})
