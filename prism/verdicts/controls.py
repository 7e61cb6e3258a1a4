"""Controls that keep gains honest: what a model without language, or the base without the format, would score.

Each control is a set of answers to the same held-out questions, scored by the same metrics as the tuned model's.
"""

from __future__ import annotations

from collections.abc import Sequence

from prism.rows import Example


def classical(training: Sequence[Example], held_out: Sequence[Example]) -> list[str]:
    """TF-IDF of words and word pairs with logistic regression, on the adapter's own training rows.

    An adapter that does not beat this has not earned its GPU.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    model.fit([example.question for example in training], [example.reference for example in training])
    return model.predict([example.question for example in held_out]).tolist()


def likeliest(labels: dict[str, float]) -> str:
    """The label of the highest log-likelihood: what a base that never learned the format of the answer would say."""
    return max(labels, key=labels.__getitem__)
