"""Controls that put a gain in perspective: answers of a classical classifier, and labels that take no tuning.

Each control answers the same held-out questions and is scored by the same metrics as the tuned model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from prism.rows import Example
from prism.rows.remembered import content
from prism.store import digest

Answers = list[str] | dict[int, list[str]]  # by training seed, if the tuned model gave them


class Task(Protocol):
    """What is read of a task; `prism.tasks.Task` implements it."""

    @property
    def fixed(self) -> Mapping[str, str]: ...

    @property
    def contenders(self) -> Mapping[str, Callable[[Sequence[Example], Sequence[Example]], list[str]]]: ...

    @property
    def source(self) -> str: ...


def beside(
    altered: Mapping[str, dict[int, list[str]]],
    task: Task,
    stated: Sequence[dict[str, float]],
    training: Sequence[Example],
    held_out: Sequence[Example],
    remember: Callable[[Mapping[str, Any], Callable[[], Any]], Any],
) -> dict[str, Answers]:
    """The answers that stand beside the tuned ones, by control.

    `altered` are the tuned model's answers to changed evidence, `stated` the base's log-likelihoods of each label, empty
    if answers are no closed set. What learns from rows is left out if the training rows are unknown.
    """
    answers: dict[str, Answers] = {**altered}
    answers |= {name: [answer] * len(held_out) for name, answer in task.fixed.items()}
    rows = [content(training), content(held_out)]

    def learned(name: str, learn: Callable[[Sequence[Example], Sequence[Example]], list[str]]) -> list[str]:
        return remember(
            {"kind": "control", "name": name, "task": task.source, "rows": rows}, partial(learn, training, held_out)
        )

    answers |= {name: learned(name, contend) for name, contend in task.contenders.items() if training}
    if stated:
        known = {"kind": "untaught", "rows": rows, "stated": digest(stated)}
        answers |= remember(known, partial(untaught, training, held_out, stated))
        if training:
            answers["classical"] = learned("classical", classical)
    return answers


def classical(training: Sequence[Example], held_out: Sequence[Example]) -> list[str]:
    """TF-IDF of words and word pairs with logistic regression, on the adapter's own training rows.

    An adapter that does not beat this is not worth its GPU time.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # "lbfgs" takes ten times as long for 30,000 rows, and stops farther from the solution.
    learner = LogisticRegression(C=10, max_iter=2000, solver="newton-cg")
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), learner)
    model.fit([example.question for example in training], [example.reference for example in training])
    return model.predict([example.question for example in held_out]).tolist()


def most_frequent(training: Sequence[Example], held_out: Sequence[Example]) -> list[str]:
    """The most frequent training answer to questions of the same type: what knows the questions and looks at nothing.

    The type is the fact "question_type"; a type that training lacks gets the most frequent answer of all.
    """
    by_type: dict[str, Counter[str]] = {}
    for example in training:
        for kind in {"", str(example.facts.get("question_type") or "")}:
            by_type.setdefault(kind, Counter())[example.reference] += 1
    best = {kind: min(counts, key=lambda answer: (-counts[answer], answer)) for kind, counts in by_type.items()}
    return [best.get(str(example.facts.get("question_type") or ""), best[""]) for example in held_out]


def untaught(
    training: Sequence[Example], held_out: Sequence[Example], stated: Sequence[Mapping[str, float]]
) -> dict[str, list[str]]:
    """The labels that take no tuning, by control, from the untuned model's log-likelihoods of each label.

    Its likeliest label; the likeliest after its preference for a label is taken out; and the most frequent training
    label, if the training rows are known. The preference is the label's mean log-likelihood over the held-out prompts,
    of which no gold label is read: Zhao et al. 2021, "Calibrate Before Use", estimate it from a prompt without content,
    Zhou et al. 2024, "Batch Calibration", from the mean over a batch of prompts.
    """
    preference = {label: sum(labels[label] for labels in stated) / len(stated) for label in stated[0]}
    corrected = [{label: value - preference[label] for label, value in labels.items()} for labels in stated]
    found = {"label_likelihood": list(map(likeliest, stated)), "prior_corrected": list(map(likeliest, corrected))}
    return found | ({"majority_class": most_frequent(training, held_out)} if training else {})


def likeliest(labels: Mapping[str, float]) -> str:
    """The label of highest log-likelihood: the answer of a base model that has not learned the answer's format."""
    return max(labels, key=labels.__getitem__)
