"""Cosine similarity of texts by a sentence-transformers model; needs the extra `semantic`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from prism.errors import ModelError, first_line
from prism.progress import CONSOLE, Progress
from prism.store import digest, folder_digest
from prism.store.hub import Say, commit, model_folder
from prism.store.provenance import versions
from prism.store.sources import is_local, require_safetensors

Pair = tuple[str, str]  # reference, answer
SIMILARITIES = "similarities.json"
KEY = "[semantic].model"  # where a spec names it
LIBRARIES = ("sentence-transformers", "transformers", "torch")


def model_identity(name: str, root: Path, say: Say = CONSOLE.say) -> dict[str, str]:
    """The digest of a local folder, or a hub id with its commit.

    Raises ModelError if the package or the model is missing, or if the weights are only pickled.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ModelError(
            "[semantic] needs the package sentence-transformers, which is not installed; "
            "pip install 'pytest-prism[semantic]', or delete the table"
        )
    if not is_local(name, root):
        return {"hub": name, "revision": commit("model", name, None, KEY, say).sha}
    folder = _folder(name, root)
    if not (folder / "modules.json").is_file():
        raise ModelError(f"{name}: there is no sentence-transformers model under {root}; check [semantic].model")
    require_safetensors(folder, "model")
    return {"bytes": folder_digest(folder)}


def similarities(name: str, root: Path, pairs: Sequence[Pair]) -> list[float]:
    """Cosine similarity of each pair's embeddings, from -1 to 1; an empty answer scores 0, unlike its embedding."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    vectors = dict(zip(texts, _embed(name, root, texts)))
    return [
        float(numpy.clip(vectors[reference] @ vectors[answer], -1, 1)) if answer.strip() else 0.0
        for reference, answer in pairs
    ]


def _embed(name: str, root: Path, texts: list[str]) -> numpy.ndarray:
    """Unit vectors (n, d)."""
    from sentence_transformers import SentenceTransformer

    source = str(_folder(name, root) if is_local(name, root) else model_folder(name, None, KEY, CONSOLE.say))
    try:
        model = SentenceTransformer(
            source, device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise ModelError(f"{name}: the sentence-transformers model cannot be loaded ({reason}); name another") from None
    return numpy.asarray(model.encode(texts, normalize_embeddings=True, show_progress_bar=False), float)


def _folder(name: str, root: Path) -> Path:
    return (root / Path(name).expanduser()).resolve()


def similarities_identity(model: Mapping[str, str], pairs: Sequence[Pair]) -> dict[str, Any]:
    """What the result of `similarities` depends on."""
    return {"model": dict(model), "pairs": digest([list(pair) for pair in pairs]), "versions": versions(LIBRARIES)}


def write_similarities(name: str, root: Path, pairs: Sequence[Pair], folder: Path) -> dict[str, Any]:
    """Write the similarities of the pairs into an artifact folder. Returns no notes."""
    (folder / SIMILARITIES).write_text(json.dumps(similarities(name, root, pairs)), encoding="utf-8")
    return {}


def read_similarities(folder: Path, pairs: Sequence[Pair]) -> dict[Pair, float]:
    return dict(zip(pairs, json.loads((folder / SIMILARITIES).read_text(encoding="utf-8"))))


def stored_similarities(
    name: str,
    root: Path,
    pairs: Sequence[Pair],
    make: Callable[[str, Mapping[str, Any], Callable[[Path], dict[str, Any]]], Path],
    screen: Progress,
    spec: str,
) -> tuple[dict[str, str], dict[Pair, float]]:
    """The model's identity, and the similarity of each pair, which the store keeps; `spec` is an id, for the screen."""
    model = model_identity(name, root)

    def work(folder: Path) -> dict[str, Any]:
        with screen.progress(f"{spec}: semantic similarity by {name}"):
            return write_similarities(name, root, pairs, folder)

    return model, read_similarities(make("similarities", similarities_identity(model, pairs), work), pairs)
