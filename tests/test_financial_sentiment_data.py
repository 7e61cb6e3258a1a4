"""The bundled financial-sentiment rows are what their generator writes, and counting words does not solve them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from fixtures.make import financial_sentiment

COMMITTED = financial_sentiment.DEFAULT_OUT / "train.jsonl"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [json.loads(line) for line in COMMITTED.read_text(encoding="utf-8").splitlines()]


def test_generator_writes_the_committed_bytes(tmp_path: Path) -> None:
    assert financial_sentiment.write(tmp_path).read_bytes() == COMMITTED.read_bytes()


def test_rows_are_unique_and_enough(rows: list[dict]) -> None:
    assert len(rows) >= 2000
    assert len({row["tweet"] for row in rows}) == len(rows)


def test_rows_have_the_layout_and_the_three_classes(rows: list[dict]) -> None:
    assert all(set(row) == {"tweet", "sentiment"} for row in rows)
    assert Counter(row["sentiment"] for row in rows) == {0: 840, 1: 960, 2: 600}


def test_texts_are_whole_and_short(rows: list[dict]) -> None:
    for row in rows:
        assert not set("{}<>") & set(row["tweet"]), row
        assert 6 <= len(row["tweet"].split()) <= 30, row


def test_every_company_has_a_ticker_of_its_own() -> None:
    stems = [stem for sector in financial_sentiment.SECTORS.values() for stem in sector.stems]
    assert len({financial_sentiment.ticker(stem) for stem in stems}) == len(stems)


def test_word_counting_does_not_solve_it(rows: list[dict]) -> None:
    texts, labels = [row["tweet"] for row in rows], [row["sentiment"] for row in rows]
    train_x, test_x, train_y, test_y = train_test_split(texts, labels, test_size=0.2, random_state=42, stratify=labels)
    control = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    accuracy = control.fit(train_x, train_y).score(test_x, test_y)
    majority = max(Counter(test_y).values()) / len(test_y)
    print(f"classical accuracy {accuracy:.4f}, majority {majority:.4f}, n {len(test_y)}")
    assert majority < accuracy < 0.95
