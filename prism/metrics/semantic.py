"""Tier 2, optional: how near an answer's meaning is to its reference's, by a sentence-transformers model.

It rewards other words for the same thing, and also a fluent answer about the same subject that is wrong: read it beside
the judge, never in its place. A spec switches it on by `[semantic] model = …`; it needs the extra `semantic`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from prism.data import Example
from prism.errors import ModelError
from prism.identity import hub_revision, require_safetensors, versions
from prism.metrics import Metric, mean
from prism.spec import is_local
from prism.store import digest, folder_digest

Pair = tuple[str, str]  # reference, answer
LIBRARIES = ("sentence-transformers", "transformers", "torch")


def model_identity(name: str, root: Path) -> dict[str, str]:
    """A local folder's bytes, or a hub id with its revision.

    Raises ModelError where the package or the model is missing, or its weights are pickles only.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ModelError(
            "[semantic] needs the package sentence-transformers, which is not installed; pip install 'prism-bench[semantic]',"
            " or delete the table"
        )
    if not is_local(name, root):
        return {"hub": name, "revision": hub_revision(name, "[semantic].model")}
    folder = _folder(name, root)
    if not (folder / "modules.json").is_file():
        raise ModelError(f"{name}: no sentence-transformers model under {root}; check [semantic].model")
    require_safetensors(folder, "model")
    return {"bytes": folder_digest(folder)}


def similarities(name: str, root: Path, pairs: Sequence[Pair]) -> list[float]:
    """Cosine similarity of each pair's embeddings, from -1 to 1; an empty answer scores 0, unlike an embedded one."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    vectors = dict(zip(texts, _embed(name, root, texts)))
    return [
        float(numpy.clip(vectors[reference] @ vectors[answer], -1, 1)) if answer.strip() else 0.0
        for reference, answer in pairs
    ]


def _embed(name: str, root: Path, texts: list[str]) -> numpy.ndarray:
    """Unit vectors (n, d)."""
    from sentence_transformers import SentenceTransformer

    place = str(_folder(name, root)) if is_local(name, root) else name
    try:
        model = SentenceTransformer(
            place, device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{name}: no sentence-transformers model can be loaded ({reason}); name another") from None
    return numpy.asarray(model.encode(texts, normalize_embeddings=True, show_progress_bar=False), float)


def _folder(name: str, root: Path) -> Path:
    return (root / Path(name).expanduser()).resolve()


def metric(identity: Mapping[str, str], found: Mapping[Pair, float]) -> Metric:
    """`semantic_similarity` from the similarities found by the model of that identity, which is the metric's version."""

    def statistics(examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
        """[similarity, 1] a sample; an empty reference is unscored."""
        rows = [
            [found[example.reference, answer], 1.0] if example.reference.strip() else [numpy.nan, numpy.nan]
            for example, answer in zip(examples, answers)
        ]
        return numpy.array(rows).reshape(-1, 2)

    version = int(digest(identity)[:8], 16)
    return Metric("semantic_similarity", "tier2", statistics, mean, low=-1.0, controlled=False, version=version)


def identity(model: Mapping[str, str], pairs: Sequence[Pair]) -> dict[str, Any]:
    """What `similarities` depend on."""
    return {"model": dict(model), "pairs": digest([list(pair) for pair in pairs]), "versions": versions(LIBRARIES)}
