"""Error analysis: how often answers fail in recognizable ways, before and after tuning.

Every pattern is a rule on the text alone, so that a reader can check it. An answer that matches none can be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy

from prism.metrics import Metric, coverage
from prism.metrics.coverage import Lexicon, load_lexicon, missing
from prism.metrics.overlap import is_scored, rouge, stems
from prism.rows import Example, Prediction
from prism.store import digest

# An answer's first pattern in this order is its main one: those of form come first, since an answer that loops or was
# cut off shows little of what the model knows.
PATTERNS = {
    "empty": "no word of Latin letters or digits",
    "repeats": "more than a quarter of its three-word sequences are repetitions",
    "truncated": "cut off at max_new_tokens",
    "verbose": "over twice the reference's words, and ten more",
    "off_topic": "shares no content word with question or reference",
    "confused": "closer to the reference of another question than to its own",
    "hallucinates": "names lexicon terms that are in neither question nor reference",
}
NONE = "no_pattern"
MEASURED = tuple(pattern for pattern in PATTERNS if pattern != "truncated")  # a metric is not told how an answer ended
READING = 1  # raise it if the same answers match other patterns
MAX_REPEATED = 0.25  # 1 of 5,758 textbook definitions repeats more than this
# 3 % of random sentences of an anatomy textbook reach both minima for any of 800 definitions.
MIN_COSINE = 0.5  # of TF-IDF
MIN_COMMON_WORDS = 3  # content words that are not in the question
SHOWN = 3  # samples per pattern in the report
CLIP = 500  # characters of a text in the report; samples/*.jsonl has all
_FUNCTION_WORDS = """a about after all also an and any are as at be been before being between both but by can could did
define definition do does during each for from had has have he her how i if in into is it its many may mean means might
more most much must no not of often on one only or other our over she should so some such term than that the their them
then there these they this those through to under up us used very was we were what when where which while who why will
with within without would you your called known refers usually something thing answer question"""


@dataclass(frozen=True)
class Finding:
    """What is wrong with one answer; `patterns` are all that apply, in the order of PATTERNS."""

    patterns: tuple[str, ...]
    confused_with: Example | None = None
    invented: tuple[str, ...] = ()

    @property
    def main(self) -> str:
        return self.patterns[0] if self.patterns else NONE


def find_patterns(examples: Sequence[Example], predictions: Sequence[Prediction], lexicon: Lexicon) -> list[Finding]:
    """One finding per answer. An answer is confused with a reference of another row of `examples`."""
    confused = _confused(examples, [prediction.answer for prediction in predictions])
    return [
        _finding(example, prediction, other, lexicon)
        for example, prediction, other in zip(examples, predictions, confused)
    ]


def metrics(path: Path) -> tuple[Metric, ...]:
    """The rate of answers that match each pattern, by a lexicon, such as `hallucinates_rate`: the lower, the better.

    As for ROUGE, an answer is unscored whose reference has no word, or is in another script than Latin.
    """
    version = int(digest([READING, coverage.metric(path).version])[:8], 16)
    return tuple(
        Metric(
            f"{pattern}_rate",
            "tier2",
            partial(_matches, path, column),
            direction="lower",
            bounds=(0.0, 1.0),
            sample="right or wrong",
            beside="nothing",  # a control's answers are no better for not failing in these ways
            version=version,
        )
        for column, pattern in enumerate(MEASURED)
    )


def _matches(path: Path, column: int, examples: Sequence[Example], answers: Sequence[str]) -> numpy.ndarray:
    """[matches the pattern, 1] per sample."""
    read = tuple((example.id, example.question, example.reference, example.group) for example in examples)
    found = numpy.column_stack([_all_matches(path, read, tuple(answers))[:, column], numpy.ones(len(examples))])
    found[[not is_scored(example) for example in examples]] = numpy.nan
    return found


@lru_cache(16)  # the answers of baseline and seeds, which every pattern's metric asks for in turn
def _all_matches(path: Path, read: tuple[tuple[str, str, str, str], ...], answers: tuple[str, ...]) -> numpy.ndarray:
    examples = [
        Example(id, ({"role": "user", "content": question},), reference, group)
        for id, question, reference, group in read
    ]
    predictions = [Prediction(example.id, answer, 0, "stop") for example, answer in zip(examples, answers)]
    found = find_patterns(examples, predictions, load_lexicon(path))
    rows = [[float(pattern in finding.patterns) for pattern in MEASURED] for finding in found]
    return numpy.array(rows).reshape(-1, len(MEASURED))


def _finding(example: Example, prediction: Prediction, confused: Example | None, lexicon: Lexicon) -> Finding:
    words, reference = stems(prediction.answer), stems(example.reference)
    known = {*lexicon.find(example.question), *lexicon.find(example.reference)}
    invented = tuple(lexicon.invented(prediction.answer, known))
    topic = {*_content_words(example.question), *_content_words(example.reference)}
    applies = {
        "empty": not words,
        "repeats": _repeated(words) > MAX_REPEATED,
        "truncated": prediction.finish == "length",
        "verbose": bool(reference) and len(words) > 2 * len(reference) + 10,
        "off_topic": bool(words and topic) and topic.isdisjoint(_content_words(prediction.answer)),
        "confused": bool(reference and confused),
        "hallucinates": bool(reference and invented),
    }
    return Finding(tuple(pattern for pattern in PATTERNS if applies[pattern]), confused, invented)


def _repeated(words: Sequence[str]) -> float:
    """The share of three-word sequences that repeat earlier ones."""
    triples = list(zip(words, words[1:], words[2:]))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def _content_words(text: str) -> list[str]:
    return [stem for stem in stems(text) if stem not in _function_stems()]


@cache
def _function_stems() -> frozenset[str]:
    return frozenset(stems(_FUNCTION_WORDS))


def _confused(examples: Sequence[Example], answers: Sequence[str]) -> Iterator[Example | None]:
    """For each answer, the example of another group whose reference it resembles more than its own, if any."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(_content_words(example.reference) for example in examples):
        yield from [None] * len(examples)
        return
    vectorizer = TfidfVectorizer(analyzer=_content_words)
    references = vectorizer.fit_transform([example.reference for example in examples])
    _, index = numpy.unique([example.group for example in examples], return_inverse=True)
    for start in range(0, len(examples), 500):  # 500 x 10,000 references of float64 are 40 MB
        rows = range(start, min(start + 500, len(examples)))
        cosines = (vectorizer.transform([answers[i] for i in rows]) @ references.T).toarray()
        for i, row in zip(rows, cosines):
            own = row[i]
            row[index == index[i]] = 0
            other = examples[int(row.argmax())]
            # A short reference is close to any text with its one rare word, which alone does not mean confusion.
            common = {*_content_words(answers[i])} & {*_content_words(other.reference)} - {
                *_content_words(examples[i].question)
            }
            yield other if row.max() > own and row.max() >= MIN_COSINE and len(common) >= MIN_COMMON_WORDS else None


def analysis(
    examples: Sequence[Example], baseline: Sequence[Prediction], tuned: Sequence[Prediction], lexicon: Lexicon
) -> dict[str, Any]:
    """For the report, in plain JSON types: how many answers match each pattern, before and after, and the worst ones.

    An answer counts in every pattern that it matches, and is shown under its main one, lowest ROUGE-L first.
    """
    before, after = find_patterns(examples, baseline, lexicon), find_patterns(examples, tuned, lexicon)
    counts = [Counter(p for finding in findings for p in finding.patterns or (NONE,)) for findings in (before, after)]
    main = Counter(finding.main for finding in after)
    missing_concepts = {
        name: missing(lexicon, examples, [prediction.answer for prediction in predictions])
        for name, predictions in (("baseline", baseline), ("tuned", tuned))
    }
    scores = [rouge(example.reference, prediction.answer)["rougeL"] for example, prediction in zip(examples, tuned)]
    ranked = sorted((i for i, example in enumerate(examples) if stems(example.reference)), key=scores.__getitem__)

    def shown(i: int) -> dict[str, Any]:
        example, finding = examples[i], after[i]
        return {
            "id": example.id,
            "question": _clip(example.question),
            "reference": _clip(example.reference),
            "baseline": _clip(baseline[i].answer),
            "tuned": _clip(tuned[i].answer),
            "rougeL": [rouge(example.reference, baseline[i].answer)["rougeL"], scores[i]],
            "baseline_pattern": before[i].main,
            "also": list(finding.patterns[1:]),
            "missing": {name: concepts[i] for name, concepts in missing_concepts.items()},
            "invented": list(finding.invented),
            "confused_with": _clip(finding.confused_with.question) if finding.confused_with else "",
        }

    return {
        "patterns": [
            {
                "pattern": pattern,
                "meaning": meaning,
                "baseline": counts[0][pattern],
                "tuned": counts[1][pattern],
                "main": main[pattern],
                "worst": [shown(i) for i in [i for i in ranked if after[i].main == pattern][:SHOWN]],
            }
            for pattern, meaning in {**PATTERNS, NONE: "none of these, which does not make it right"}.items()
        ],
        "n": len(examples),
    }


def _clip(text: str) -> str:
    return text if len(text) <= CLIP else text[:CLIP] + "…"
