"""Tier 2, optional: how near an answer's meaning is to its reference's, by a sentence-transformers model.

It rewards other words for the same thing, and also a fluent answer about the same subject that is wrong: read it beside
the judge, never in its place. Needs `pip install sentence-transformers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy

from prism.data import Example
from prism.errors import ModelError
from prism.metrics import Metric
from prism.metrics.overlap import mean


def metric(model_name: str) -> Metric:
    """Cosine similarity of the embeddings, from -1 to 1; another model is another version of the metric."""

    def statistics(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
        """[similarity, 1] a sample; an empty reference is unscored, an empty answer scores 0."""
        references = [example.reference for example in examples]
        cosine = (_embed(model_name, tuple(references)) * _embed(model_name, tuple(answers))).sum(1)
        similar = cosine.clip(-1, 1)  # float32 may end just beyond
        similar[[not answer.strip() for answer in answers]] = 0
        rows = numpy.column_stack([similar, numpy.ones(len(examples))])
        rows[[not reference.strip() for reference in references]] = numpy.nan
        return rows

    version = int(hashlib.sha256(model_name.encode()).hexdigest()[:8], 16)
    return Metric("semantic_similarity", "tier2", statistics, mean, low=-1.0, version=version)


@cache
def _embed(model_name: str, texts: tuple[str, ...]) -> numpy.ndarray:
    """Unit vectors (n, d), made once a set of texts: the references serve every set of answers."""
    return numpy.asarray(_model(model_name).encode(list(texts), normalize_embeddings=True), float)


@cache
def _model(name: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ModelError(
            "semantic_similarity needs the extra `semantic`; pip install sentence-transformers, or drop it"
        ) from None
    try:
        return SentenceTransformer(name, device="cpu", trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{name}: no sentence-transformers model could be loaded ({reason}); name a folder") from None
