"""Tier 2, optional: how similar an answer is in meaning to its reference, by a sentence-transformers model.

It rewards other words for the same thing, and also a fluent answer about the same subject that is wrong: use it with
the judge, never instead of it. A spec enables it with `[semantic] model = …`; it needs the extra `semantic`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from prism.metrics import Metric, per_sample
from prism.rows import Example
from prism.store import digest

NAME = "semantic_similarity"


def metric(model: Mapping[str, str], similarities: Mapping[tuple[str, str], float]) -> Metric:
    """`semantic_similarity` from the similarity of each (reference, answer). An empty reference is unscored.

    `model` is the identity of the model that computed them; it determines the metric's version.
    """

    def similarity(example: Example, answer: str) -> float:
        return similarities[example.reference, answer] if example.reference.strip() else math.nan

    version = int(digest(model)[:8], 16)
    return per_sample(NAME, "tier2", similarity, range=(-1.0, 1.0), beside="nothing", version=version)
