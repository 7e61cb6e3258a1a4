"""Know-nothing contenders: answers made from rows alone, which no gate that asks for knowledge may let pass.

Which of them apply follows from what the task has: training rows, a lexicon, a context. Each is held against the
thresholds that the adapter is held against, with the same baseline and the same controls, by the same gate.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy

from prism.metrics import Metric, Statistics
from prism.metrics.coverage import load_lexicon
from prism.rows import Example, filings
from prism.rows.remembered import content
from prism.spec import Spec
from prism.store import digest
from prism.verdicts import gate
from prism.verdicts.record import Record, Score, empty_record
from prism.verdicts.scoring import rivals_of, score

Answers = Sequence[str]
WORDS = 40  # to which a question is repeated: ROUGE's recall of it grows, its precision does not fall
LISTED = 14  # terms of a lexicon, about as many as a long answer names
TRIED = 50  # training answers, the most frequent ones
ROUNDS = ((10, 12), (3, 60), (1, 200))  # how many of them are kept, by their scores on how many held-out rows
CHUNK = 200  # questions at a time: 200 x 30,000 cosines of float32 are 24 MB
QUOTED = 20  # words, as many as an adapter of phase 3 quotes of a sentence
_FIGURE = re.compile(r"(?<![\w.,])(?!(?:19|20)\d\d\b)\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Contender:
    """The value of each metric for its answers (NaN: nothing could be scored), and the thresholds that they pass, by id."""

    name: str
    values: dict[str, float]
    passes: tuple[str, ...]


def identity(
    spec: Spec, evaluation: str, training: Sequence[Example], measured: Mapping[str, Answers]
) -> dict[str, Any]:
    """What determines the contenders and what they pass; `evaluation` covers the held-out rows and the metrics.

    `measured` are the answers of the baseline, of the tuned model and of each control, by these names.
    """
    return {
        "kind": "contenders",
        "evaluation": evaluation,
        "rows": content(training),
        "answers": digest(dict(measured)),
        "gate": [limit.model_dump() for limit in spec.limits()],
    }


class Task(Protocol):
    """What is read of a task; `prism.tasks.Task` implements it."""

    @property
    def metrics(self) -> Sequence[Metric]: ...

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def lexicon(self) -> Path | None: ...

    @property
    def fixed(self) -> Mapping[str, str]: ...

    @property
    def contenders(self) -> Mapping[str, Any]: ...  # whose answers are among the controls


def found(
    spec: Spec,
    task: Task,
    training: Sequence[Example],
    held_out: Sequence[Example],
    evaluation: str,
    measured: Mapping[str, Answers],
) -> dict[str, Any]:
    """What every contender reaches and passes, the task's own contenders and fixed answers included; see `meet`."""
    controls = {name: given for name, given in measured.items() if name not in ("baseline", "tuned")}
    metric = first_gated(spec, task.metrics)
    made: dict[str, Answers] = {**answers(training, held_out, metric, bool(task.labels), task.lexicon)}
    made |= {name: controls[name] for name in (*task.fixed, *task.contenders) if name in controls}
    return meet(spec, task.metrics, held_out, evaluation, measured["baseline"], controls, made)


# --- answers --------------------------------------------------------------------------------------------------------


def answers(
    training: Sequence[Example], held_out: Sequence[Example], metric: Metric, labels: bool, lexicon: Path | None
) -> dict[str, list[str]]:
    """The answers of every contender that applies, by its name.

    `metric` chooses the best of the constant answers; with `labels`, answers are a closed set. Without training rows, which a finished adapter may lack, the
    constant answer is the most frequent one of the held-out rows, and nothing is learned.
    """
    n, questions = len(held_out), [example.question for example in held_out]
    made = {
        "question echo": questions,
        f"question repeated to {WORDS} words": [repeated(question) for question in questions],
        "constant answer": [_frequent(training or held_out, 1)[0]] * n,
    }
    if training:
        made["best constant training answer"] = [_best_constant(training, held_out, metric)] * n
        made["nearest training answer"] = nearest(training, held_out, letters=not labels)
    if training and lexicon:
        terms = Counter(term for example in training for term in load_lexicon(lexicon).find(example.reference))
        made["lexicon list"] = [", ".join(term for term, _ in terms.most_common(LISTED))] * n
    contexts = [str(example.facts.get("context") or "") for example in held_out]
    if all(contexts):
        made["first figure of the filing"] = list(map(first_figure, contexts))
        made["a quotation chosen without the question"] = list(map(quotation, contexts))
    return made


def repeated(question: str) -> str:
    """The question again and again, cut at WORDS words."""
    words = question.split()
    return " ".join((words * (WORDS // len(words) + 1))[:WORDS]) if words else question


def _frequent(examples: Sequence[Example], n: int) -> list[str]:
    """The most frequent references; of equally frequent ones, those that come first."""
    return [answer for answer, _ in Counter(example.reference for example in examples).most_common(n)]


def _best_constant(training: Sequence[Example], held_out: Sequence[Example], metric: Metric) -> str:
    """Of the TRIED most frequent training answers the one that scores best, tried on more rows the fewer are left."""
    asked = [example for example in held_out if metric.applies(example)] or list(held_out)
    sign = 1 if metric.direction == "higher" else -1
    left = _frequent(training, TRIED)
    for kept, n in ROUNDS:
        some = asked[:: -(-len(asked) // n)]
        values = {answer: _value(metric, metric.statistics(some, [answer] * len(some))) for answer in left}
        left = sorted(left, key=lambda answer: -numpy.inf if numpy.isnan(values[answer]) else sign * values[answer])
        left = left[::-1][:kept]
    return left[0]


def nearest(training: Sequence[Example], held_out: Sequence[Example], letters: bool) -> list[str]:
    """The answer of the training row whose question is most like each held-out one: cosine of TF-IDF, no model.

    By words and word pairs, or by three to five `letters` of a word, which find the relatives of a rare term. What more
    than half of the training questions have, such as a prompt, does not count. Hashing needs no vocabulary, so that
    questions without a word raise nothing; of equally near rows the first answers.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.preprocessing import normalize

    parts = {"analyzer": "char_wb", "ngram_range": (3, 5)} if letters else {"ngram_range": (1, 2)}
    vectorizer = HashingVectorizer(n_features=2**18, norm=None, alternate_sign=False, dtype=numpy.float32, **parts)
    counts = vectorizer.transform([example.question for example in training])
    weighting = TfidfTransformer(sublinear_tf=True, norm=None).fit(counts)
    rare = (numpy.bincount(counts.indices, minlength=counts.shape[1]) * 2 <= len(training)).astype(numpy.float32)
    known = normalize(weighting.transform(counts).multiply(rare).tocsr()).T.tocsr()
    asked = weighting.transform(vectorizer.transform([example.question for example in held_out])).multiply(rare).tocsr()
    found = [(asked[i : i + CHUNK] @ known).toarray().argmax(1) for i in range(0, len(held_out), CHUNK)]
    return [training[i].reference for i in numpy.concatenate(found)]


def first_figure(context: str) -> str:
    """The first number of a filing's table or text that is no year, with the row or sentence that holds it as evidence."""
    rows = context.partition("\n|---")[2]
    figure = _FIGURE.search(rows) or _FIGURE.search(context)
    if figure is None:
        return quotation(context)
    return f'{figure[0]}\n"{filings.evidence(context, "", [figure[0]])}"'


def quotation(context: str) -> str:
    """The longest line of a filing, as the answer and as its evidence."""
    line = max(context.split("\n"), key=len).strip("| ")
    text = line if " | " in line else " ".join(line.split()[:QUOTED])
    return f'{text}\n"{text}"'


# --- scores and thresholds --------------------------------------------------------------------------------------------


def meet(
    spec: Spec,
    metrics: Sequence[Metric],
    examples: Sequence[Example],
    evaluation: str,
    baseline: Answers,
    controls: Mapping[str, Answers],
    contenders: Mapping[str, Answers],
) -> dict[str, Any]:
    """What each contender reaches and passes, in plain JSON types, the nearest to the whole gate first.

    A threshold of `metrics` counts, but not a `drop`, which is about an accepted run. A gain has an interval only where
    it is large enough, since all else is decided by the value.
    """
    ground = _Ground(spec, metrics, examples, evaluation, baseline, controls)
    limits = [limit for limit in spec.limits() if limit.key != "drop" and limit.metric in ground.named]
    met = []
    for name, given in contenders.items():
        records = ground.records(name, given)
        passed = [limit for limit in limits if gate.decide(limit, records[limit.metric]).state == "holds"]
        large = {limit.metric for limit in passed if limit.key == "gain"}
        records |= ground.with_intervals(given, large)
        passed = [limit for limit in passed if gate.decide(limit, records[limit.metric]).state == "holds"]
        values = {metric: record.tuned.value for metric, record in records.items() if record.against == "baseline"}
        met.append(Contender(name, values, tuple(limit.id for limit in passed)))
    met.sort(key=lambda contender: -len(contender.passes))
    return {"thresholds": [limit.id for limit in limits], "contenders": [asdict(contender) for contender in met]}


class _Ground:
    """What every contender meets: the same baseline, controls and statistics of them."""

    def __init__(
        self,
        spec: Spec,
        metrics: Sequence[Metric],
        examples: Sequence[Example],
        evaluation: str,
        baseline: Answers,
        controls: Mapping[str, Answers],
    ) -> None:
        self.spec, self.examples, self.evaluation = spec, examples, evaluation
        self.others = {"baseline": baseline, **controls}
        self.named = {m.name: m for m in metrics if rivals_of(m, list(self.others))}
        self._statistics: dict[tuple[Statistics, str], numpy.ndarray] = {}

    def records(self, name: str, given: Answers) -> dict[str, Record]:
        """Each metric's record with values alone: an interval is its value."""
        return {metric.name: self._record(metric, name, given) for metric in self.named.values()}

    def with_intervals(self, given: Answers, names: set[str]) -> dict[str, Record]:
        """The records of the named metrics, as the adapter's are made."""
        chosen = [
            replace(self.named[name], against=self._against(self.named[name]), beside="nothing") for name in names
        ]
        if not chosen:
            return {}
        beside = {str(m.against): self.others[str(m.against)] for m in chosen if m.against != "baseline"}
        said = {self.spec.seed: given}
        made = score(self.spec, chosen, self.examples, self.evaluation, self.others["baseline"], said, beside)
        return {record.metric: record for record in made}

    def _record(self, metric: Metric, name: str, given: Answers) -> Record:
        against = self._against(metric)
        before, after = self._of(metric, against, self.others[against]), self._of(metric, f"contender {name}", given)
        counted = ~(numpy.isnan(before).any(1) | numpy.isnan(after).any(1))
        values = [_value(metric, part[counted]) for part in (before, after)]
        scores = [Score(value, (value, value)) for value in (*values, values[1] - values[0])]
        n = int(counted.sum())
        known: dict[str, Any] = dict(zip(("baseline", "tuned", "gain"), scores))
        known |= {"n": n, "groups": n, "direction": metric.direction, "against": against}
        return empty_record(self.spec, self.evaluation, metric.tier, metric.name, len(counted) - n, **known)

    def _against(self, metric: Metric) -> str:
        """Whose answers a metric compares with: of several, those that score best."""
        sign = 1 if metric.direction == "higher" else -1
        return max(
            rivals_of(metric, list(self.others)),
            key=lambda name: sign * _value(metric, self._of(metric, name, self.others[name])),
        )

    def _of(self, metric: Metric, name: str, given: Answers) -> numpy.ndarray:
        """The statistics of a set of answers; metrics of one confusion matrix share them."""
        if (metric.statistics, name) not in self._statistics:
            self._statistics[metric.statistics, name] = metric.statistics(self.examples, given)
        return self._statistics[metric.statistics, name]


def _value(metric: Metric, statistics: numpy.ndarray) -> float:
    """The metric over the samples that are scored; NaN if none is."""
    counted = ~numpy.isnan(statistics).any(1)
    return float(metric.value(statistics[counted].sum(0))) if counted.any() else numpy.nan


def nearest_to_gate(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The contender that passes most thresholds, if any threshold counts."""
    return found["contenders"][0] if found.get("thresholds") else None


def passing(found: Mapping[str, Any]) -> list[str]:
    """The names of the contenders that pass every threshold that counts."""
    n = len(found.get("thresholds", ()))
    return [contender["name"] for contender in found.get("contenders", ()) if n and len(contender["passes"]) == n]


def first_gated(spec: Spec, metrics: Sequence[Metric]) -> Metric:
    """The metric of the gate's first threshold, or the task's first one if the gate has none of them."""
    named: dict[str, Metric] = {metric.name: metric for metric in metrics}
    gated = (named[limit.metric] for limit in spec.limits() if limit.metric in named)
    return next(gated, metrics[0])
