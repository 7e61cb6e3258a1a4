"""Embedding similarity, with a stand-in for the model: which samples are scored, and what is said where it is missing."""

import sys
from types import SimpleNamespace

import numpy
import pytest

from prism.data import Example
from prism.errors import ModelError
from prism.metrics import semantic


class Stand:
    """Embeds a text by its first letter; counts what it was asked."""

    asked = 0

    def __init__(self, name, **options):
        if name == "none":
            raise OSError("none is not a folder\nor else")

    def encode(self, texts, normalize_embeddings):
        assert normalize_embeddings
        Stand.asked += len(texts)
        return numpy.eye(256)[[ord(text[:1] or " ") for text in texts]]


@pytest.fixture(autouse=True)
def stand(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Stand))
    yield
    semantic._embed.cache_clear()
    semantic._model.cache_clear()


def examples(*references):
    return [Example(str(i), ({"role": "user", "content": "?"},), text, str(i)) for i, text in enumerate(references)]


def test_similarity_and_what_is_unscored():
    rows = semantic.metric("own").statistics(examples("abc", "abc", " ", "abc"), ["axe", "box", "a", ""])
    assert rows[[0, 1, 3]].tolist() == [[1, 1], [0, 1], [0, 1]]
    assert numpy.isnan(rows[2]).all()


def test_references_are_embedded_once():
    Stand.asked = 0
    for answers in (["a", "b"], ["c", "d"]):
        semantic.metric("own").statistics(examples("e", "f"), answers)
    assert Stand.asked == 6


def test_another_model_is_another_version():
    assert semantic.metric("own").version == semantic.metric("own").version != semantic.metric("other").version


def test_a_model_that_cannot_be_loaded():
    with pytest.raises(ModelError, match="none: no sentence-transformers model could be loaded"):
        semantic.metric("none").statistics(examples("a"), ["a"])


def test_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match="the extra `semantic`"):
        semantic.metric("own").statistics(examples("a"), ["a"])
