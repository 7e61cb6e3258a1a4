"""Tasks that need nothing of PRISM edited: `classify` and `answer` from the spec alone, and a module beside the spec."""

import re
import shutil
import sys
from pathlib import Path

import numpy
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from prism.errors import DataError, ScoresError, SpecError
from prism.metrics import classification, patterns, short_answers
from prism.rows import Example
from prism.spec import load_spec
from prism.tasks import load_task, metrics_of
from prism.tasks.check import load_checked_spec
from prism.verdicts.scores import evaluation_digest, read_scores
from tests.conftest import ROOT, SPEC, examples_of, results, write_rows

CLASSIFY = """
[classify]
labels = ["refund", "complaint", "Very Happy"]
prompt = "Sort this message into one of: {labels}.\\n\\n{text}"
system = "You work at {desk}."
"""
ANSWER = """
[answer]
prompt = "Answer in a few words.\\n{question}"
"""
OWN = '''
"""Is a ticket urgent?"""

from __future__ import annotations

from dataclasses import dataclass

from prism.metrics import classification
from prism.rows import Example

VERSION = 1
COLUMNS = ("text", "urgent")
LABELS = ("no", "yes")


@dataclass(frozen=True)
class Ticket:
    text: str


def example(row, id):
    return Example(id, ({"role": "user", "content": f"Urgent? {Ticket(row['text']).text}"},), row["urgent"], group=id)


def parse(answer):
    return next((label for label in LABELS if answer.strip().lower() == label), None)


METRICS = classification.metrics(LABELS, parse)


def details(examples, answers):
    return classification.details(LABELS, parse, examples, answers) | {"edition": 1}
'''


def spec_file(
    root: Path, task: str, table: str, gate: str = "", data: str = "rows.csv", split: str = "test_size = 0.25"
) -> Path:
    """A spec of the phase `desk` whose task is all its own, on the nano base with few steps."""
    text = SPEC.format(data=data, model=ROOT / "fixtures" / "models" / "nano-text").partition("[gate.tier1]")[0]
    text = text.replace('"financial_sentiment"', f'"{task}"').replace('test_size = 0.25, stratify = "sentiment"', split)
    text = text.replace("learning_rate = 1e-2", "learning_rate = 5e-3").replace(
        "max_new_tokens = 4", "max_new_tokens = 8"
    )
    text = text.replace("train_rows = 96", "train_rows = 48").replace("eval_rows = 40", "eval_rows = 20")
    path = root / "benchmarks" / "specs" / "desk" / "mine.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + table + gate, encoding="utf-8")
    return path


def spec_of(root, task, table, **options):
    return load_checked_spec(spec_file(root, task, table, **options))


def refused(root, task, table, **options) -> str:
    with pytest.raises(SpecError) as error:
        spec_of(root, task, table, **options)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("desk/mine.toml ")
    return str(error.value)


# classify


def test_a_row_becomes_the_specs_messages_and_its_own_label(tmp_path):
    task = load_task(spec_of(tmp_path, "classify", CLASSIFY))
    made = task.example({"text": " Where is {labels}? ", "desk": "A & {text}", "label": "very  happy"}, "1")
    assert made.messages == (
        {"role": "system", "content": "You work at A & {text}."},
        {
            "role": "user",
            "content": "Sort this message into one of: refund, complaint, Very Happy.\n\nWhere is {labels}?",
        },
    )
    assert (made.reference, made.group) == ("Very Happy", "1")
    assert set(task.columns) == {"text", "desk", "label"}
    assert task.labels == ("refund", "complaint", "Very Happy")


def test_descriptions_name_the_labels_and_columns_can_be_mapped(tmp_path):
    table = """
    [classify]
    prompt = "{descriptions}\\n{customer message}"
    column = "category"
    [classify.descriptions]
    "1" = "money back"
    "2" = "anything else"
    """
    task = load_task(spec_of(tmp_path, "classify", table, split='test_size = 0.25, group = "customer"'))
    row = {"customer message": "pay!", "category": 1.0, "customer": "c7"}
    made = task.example(row, "1")
    assert made.question == "1: money back\n2: anything else\npay!"
    assert (made.reference, made.group) == ("1", "c7"), "the split keeps customers whole: their rows are dependent"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("REFUND", "refund"),
        ("very happy", "Very Happy"),
        ("The label is complaint.", "complaint"),
        ("refund or complaint", None),
        ("refundable", None),
        ("", None),
    ],
)
def test_an_answer_is_read_by_the_specs_labels(tmp_path, answer, label):
    task = load_task(spec_of(tmp_path, "classify", CLASSIFY))
    assert task.parse(answer) == label


def test_an_answer_that_is_a_label_is_that_label_whatever_it_says(tmp_path):
    names = ("not urgent", "urgent", "urgent or not", "none of these", "I cannot say")
    table = CLASSIFY.replace('["refund", "complaint", "Very Happy"]', str(list(names)))
    task = load_task(spec_of(tmp_path, "classify", table))
    assert [task.parse(f" {name.title()}\n") for name in names] == list(names)


LABELS = 'labels = ["refund", "complaint", "Very Happy"]'
BAD_CLASSIFY = {
    "no table": (CLASSIFY, "", 'task = "classify": needs the table [classify] with labels and a prompt; add it'),
    "case only": (
        LABELS,
        'labels = ["a", "Refund", "refund"]',
        '"Refund" and "refund" differ in case only; delete one',
    ),
    "twice": (LABELS, 'labels = ["a", "a"]', '"a" and "a" are the same label; delete one'),
    "empty label": (LABELS, 'labels = ["a", " "]', "[classify] labels: one label is empty; fill it, or delete it"),
    "one label": (LABELS, 'labels = ["a"]', "[classify] labels = ['a']: a choice needs at least two labels"),
    "no labels": (LABELS, "", "needs at least two labels"),
    "spaces": (LABELS, 'labels = ["a", "b "]', "'b ' has spaces around it"),
    "a row of the tables": (LABELS, 'labels = ["a", "Accuracy"]', '"Accuracy" is a row of the reports\' tables'),
    "numbers": (LABELS, "labels = [0, 1]", "[classify] labels.0 = 0: must be a valid string"),
    "the answer in the question": ("{text}", "{text} {label}", "{label} is the column of the answer, which the model"),
    "same question": ("{text}", "", "[classify] prompt: names no column, so every question would be the same"),
    "open brace": ("{text}", "{text", "[classify] prompt: expected '}' before end of string; write a placeholder as"),
    "JSON": ("{text}", "{'a': 1} {text}", "[classify] prompt: {'a': 1} is no placeholder; write a placeholder as"),
    "attribute": ("{text}", "{text!r}", "[classify] prompt: {text!r} is no placeholder"),
    "in the system prompt": ("{desk}", "{}", "[classify] system: {} is no placeholder"),
    "no descriptions": ("{text}", "{descriptions} {text}", "{descriptions} needs the table [classify.descriptions]"),
    "description of no label": (
        "system",
        'descriptions = { refund = "x" }\nsystem',
        '[classify.descriptions]: "Very Happy" is not in both labels and descriptions',
    ),
    "unknown key": ("system", "sytem", "[classify] sytem = 'You work at {desk}.': unknown key"),
}


@pytest.mark.parametrize(("good", "bad", "sentence"), BAD_CLASSIFY.values(), ids=BAD_CLASSIFY)
def test_a_classify_table_that_cannot_work_is_refused(tmp_path, good, bad, sentence):
    assert good in CLASSIFY
    assert sentence in refused(tmp_path, "classify", CLASSIFY.replace(good, bad, 1))


def test_a_table_of_another_task_is_refused(tmp_path):
    assert 'mine.toml [answer] is for task = "answer", not "classify"' in refused(
        tmp_path, "classify", CLASSIFY + ANSWER
    )
    assert "[gate.tier1] f1: not a tier1 metric of classify; those are accuracy" in refused(
        tmp_path, "classify", CLASSIFY, gate="[gate.tier1]\nf1 = { floor = 0.5 }\n"
    )


BAD_ROWS = {
    "unknown placeholder": (
        "text,desk,label\nhello,A,refund",
        "{text}",
        "{txt}",
        "desk/mine.toml [classify] {txt}: the rows have no such column, they have 'text', 'desk', 'label'; name one of",
    ),
    "no column of labels": (
        "text,desk,kind\nhello,A,refund",
        "",
        "",
        "[classify] column = \"label\": the rows have no such column, they have 'text', 'desk', 'kind'; name one of",
    ),
    "unknown label": (
        "text,desk,label\nhello,A,Refund\nbye,B,cancel",
        "",
        "",
        'rows.csv, row 2 (line 3): label = "cancel": not one of the labels refund, complaint, Very Happy; correct the row, or add',
    ),
}


@pytest.mark.parametrize(("rows", "good", "bad", "sentence"), BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("official", [False, True])
def test_rows_that_do_not_fit_the_table_are_refused_with_their_place(tmp_path, rows, good, bad, sentence, official):
    split = 'train = "train", test = "test"' if official else "test_size = 0.25"
    for name in ("rows.csv", "parts/train.csv", "parts/test.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(rows + "\n", encoding="utf-8")
    data = "parts" if official else "rows.csv"
    spec = spec_of(tmp_path, "classify", CLASSIFY.replace(good, bad), data=data, split=split)
    file = "parts/train.csv" if official else data
    with pytest.raises(DataError, match=re.escape(sentence.replace("rows.csv", file))):
        examples_of(spec, tmp_path)


@pytest.mark.parametrize("key", ["group", "stratify"])
def test_a_split_by_a_column_that_no_row_has_names_the_split(tmp_path, key):
    write_csv(tmp_path / "rows.csv", "text,desk,label", ["hello,A,refund", "bye,B,complaint"])
    spec = spec_of(tmp_path, "classify", CLASSIFY, split=f'test_size = 0.25, {key} = "patient"')
    with pytest.raises(DataError) as error:
        examples_of(spec, tmp_path)
    assert str(error.value).startswith(
        f"desk/mine.toml [data].split {key} = \"patient\": the rows have no such column, they have 'text', 'desk', "
    )


def test_a_row_without_its_group_is_named(tmp_path):
    write_rows(
        tmp_path / "rows.jsonl",
        [
            {"text": "hello", "desk": "A", "label": "refund", "patient": 1},
            {"text": "x", "desk": "A", "label": "refund"},
        ],
    )
    spec = spec_of(tmp_path, "classify", CLASSIFY, data="rows.jsonl", split='test_size = 0.25, group = "patient"')
    with pytest.raises(DataError, match=r'rows\.jsonl, row 2 \(line 2\): no value in column "patient"'):
        examples_of(spec, tmp_path)


def test_a_row_that_is_filtered_out_may_lack_what_the_prompt_reads(tmp_path):
    rows = [
        {"text": f"note {n}", "desk": "A", "label": ("refund", "complaint")[n % 2], "kind": "note"} for n in range(40)
    ]
    write_rows(tmp_path / "rows.jsonl", [{"kind": "header"}, *rows])
    where = 'where = { kind = ["note"] }\n[model]'
    path = spec_file(tmp_path, "classify", CLASSIFY, data="rows.jsonl")
    path.write_text(path.read_text().replace("[model]", where))
    training, held_out = examples_of(load_checked_spec(path), tmp_path)
    assert len(training) + len(held_out) == 40


def test_a_list_is_not_trained_on_as_text(tmp_path):
    task = load_task(spec_of(tmp_path, "classify", CLASSIFY))
    with pytest.raises(DataError, match='column "text" holds a list, not text'):
        task.example({"text": ["a"], "desk": "B", "label": "refund"}, "1")


def test_other_labels_are_another_evaluation(tmp_path):
    """The reading of an answer depends on all labels, also on those that no held-out row has."""
    row = {"text": "hello", "desk": "A", "label": "refund"}
    found = set()
    for labels in ('["refund", "complaint"]', '["complaint", "refund"]', '["refund", "refund or complaint"]'):
        table = CLASSIFY.replace(LABELS, f"labels = {labels}").replace("{labels}", "ours")
        spec = spec_of(tmp_path, "classify", table)
        task = load_task(spec)
        found.add(evaluation_digest(spec, task.version, [task.example(row, "1")], task.metrics))
    assert len(found) == 3


@pytest.mark.parametrize("seed", range(3))
def test_label_metrics_are_scikit_learns_whatever_the_labels(seed):
    random = numpy.random.default_rng(seed)
    labels = [f"label {n}" for n in range(6)]
    truth = random.choice(labels[:4], 200)  # two labels are never present, and the last one is never said
    said = numpy.where(random.random(200) < 0.6, truth, random.choice([*labels[:5], "?"], 200)).tolist()
    examples = [Example(str(i), ({"role": "user", "content": "?"},), str(t), str(i)) for i, t in enumerate(truth)]
    metrics = classification.counted(labels, lambda answer: None if answer == "?" else answer)
    found = {m.name: float(m.value(m.statistics(examples, said).sum(0))) for m in metrics}
    assert found == pytest.approx(
        {
            "accuracy": accuracy_score(truth, said),
            "weighted_f1": f1_score(truth, said, labels=labels, average="weighted", zero_division=0),
            "macro_f1": f1_score(truth, said, labels=labels[:5], average="macro", zero_division=0),
            "unparsable_rate": said.count("?") / 200,
            "knowledge_gain": accuracy_score(truth, said),
            "worst_class_recall": recall_score(truth, said, labels=labels[:4], average=None).min(),
        },
        abs=1e-12,
    )
    assert metrics[0].statistics(examples, said).shape == (200, 19), "three numbers a label, not one a cell"


def test_macro_f1_leaves_out_labels_that_are_neither_present_nor_said():
    examples = [Example(label, ({"role": "user", "content": "?"},), label, label) for label in "ab"]
    macro_f1 = next(m for m in classification.counted("abc", str) if m.name == "macro_f1")
    assert [macro_f1.value(macro_f1.statistics(examples, said).sum(0)) for said in ("ab", "ac", "cc")] == [1, 1 / 3, 0]
    assert macro_f1.version == 2
    tables = classification.details("abc", str, examples, "ab")
    assert tables["per_class"]["macro avg"]["f1-score"] == 1
    assert tables["confusion"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


# answer


@pytest.mark.parametrize(
    ("reference", "answer", "exact", "f1"),
    [
        ("The Bank of England", "bank of england!", 1, 1),
        ("12 May 2021", "on 12 May", 0, 2 * 2 / (3 + 3)),
        ("Moody’s", "Moody's", 1, 1),
        ("yes", "", 0, 0),
        ("yes yes", "yes", 0, 2 * 1 / (2 + 1)),
    ],
)
def test_short_answers_are_compared_as_squads(reference, answer, exact, f1):
    example = Example("1", ({"role": "user", "content": "?"},), reference, "1")
    assert short_answers.exact_match(example, answer) == exact
    assert short_answers.f1(example, answer) == pytest.approx(f1)


def test_long_gold_answers_are_left_out_of_exact_match_and_empty_ones_unscored():
    exact = short_answers.METRICS[0]
    texts = ("word " * 11, "word " * 10, "...")
    examples = [Example(str(n), ({"role": "user", "content": "?"},), text, "1") for n, text in enumerate(texts)]
    assert [exact.applies(example) for example in examples] == [False, True, True]
    assert numpy.isnan(exact.statistics(examples, list(texts))).any(1).tolist() == [True, False, True]


RATES = [f"{pattern}_rate" for pattern in patterns.MEASURED]


def test_a_lexicon_adds_keyword_coverage_and_the_rates_of_failure_patterns(tmp_path):
    without = load_task(spec_of(tmp_path, "answer", ANSWER))
    names = ["exact_match", "f1", "rouge1", "rouge2", "rougeL", "content_gain"]
    assert [metric.name for metric in without.metrics] == names
    assert without.missing is None
    (tmp_path / "benchmarks" / "specs" / "desk" / "terms.txt").write_text("overdraft = OD\ninterest\n")
    task = load_task(spec_of(tmp_path, "answer", ANSWER + 'lexicon = "terms.txt"\n'))
    assert [metric.name for metric in task.metrics] == [*names, "keyword_coverage", *RATES]
    made = task.example({"question": "Why?", "answer": "interest on an overdraft"}, "1")
    coverage = task.metrics[len(names)]
    assert coverage.value(coverage.statistics([made], ["An overdraft."]).sum(0)) == pytest.approx(2 / 3)
    assert task.missing([made], ["An overdraft."]) == [["interest"]]
    assert [d.metric for d in task.judged] == ["Answer Correctness [GEval]", "Answer Relevancy"]


def test_an_answer_table_that_cannot_work_is_refused(tmp_path):
    assert 'task = "answer": needs the table [answer] with a prompt' in refused(tmp_path, "answer", "")
    assert "{answer} is the column of the answer" in refused(
        tmp_path, "answer", ANSWER.replace("{question}", "{question} {answer}")
    )
    missing = refused(tmp_path, "answer", ANSWER + 'lexicon = "terms.txt"\n')
    assert re.search(r'\[answer\] lexicon = "terms.txt": there is no .*/desk/terms.txt; write the path from', missing)
    (tmp_path / "benchmarks" / "specs" / "desk" / "empty.txt").write_text("# none\n")
    assert 'lexicon = "empty.txt": empty.txt: contains no concept' in refused(
        tmp_path, "answer", ANSWER + 'lexicon = "empty.txt"\n'
    )


# A module beside the spec

BAD_OWN = {
    "no file": (None, "./mine.py", r'task = "./mine.py": there is no .*mine\.py; write the path from the spec'),
    "syntax": ("def example(:", "./mine.py", r"mine\.py cannot be imported \(SyntaxError: .*line 1\)\); correct it"),
    "raises": ("import nowhere", "./mine.py", r"cannot be imported \(ModuleNotFoundError: No module named 'nowhere'\)"),
    "no metrics": (OWN.replace("METRICS =", "METRIC ="), "./mine.py", r"\./mine\.py has no METRICS; add it"),
    "exits": ("raise SystemExit(3)", "./mine.py", r"mine\.py cannot be imported \(SystemExit: 3\); correct it"),
    "metrics that are one": (
        OWN.replace(
            "METRICS = classification.metrics(LABELS, parse)", "METRICS = classification.metrics(LABELS, parse)[0]"
        ),
        "./mine.py",
        r"\./mine\.py METRICS is no tuple or list of prism\.metrics\.Metric; write METRICS = ",
    ),
    "metrics by name": (OWN + "METRICS = ('accuracy',)\n", "./mine.py", r"mine\.py METRICS is no tuple or list"),
    "from_spec raises": (
        "METRICS = ()\ndef from_spec(spec):\n    return {}['nowhere']",
        "./mine.py",
        r"\./mine\.py from_spec fails \(KeyError: 'nowhere'\); correct it",
    ),
    "from_spec exits": (
        "METRICS = ()\ndef from_spec(spec):\n    raise SystemExit(3)",
        "./mine.py",
        r"\./mine\.py from_spec fails \(SystemExit: 3\); correct it",
    ),
    "from_spec returns nothing": (
        "METRICS = ()\ndef from_spec(spec):\n    pass",
        "./mine.py",
        r"\./mine\.py from_spec returns NoneType, not a Task; return prism\.tasks\.Task",
    ),
    "from_spec without METRICS": (
        "from prism.tasks import Task\ndef from_spec(spec):\n    return Task('mine', 1, (), lambda row, id: None, ())",
        "./mine.py",
        r"\./mine\.py has no METRICS; add it",
    ),
    "no example": (OWN.replace("def example", "def sample"), "./mine.py", r"\./mine\.py has no example; add it"),
    "outside": (OWN, "../../../../mine.py", r"lies outside the checkout; move it beside the spec"),
    "absolute": (OWN, "/mine.py", r"lies outside the checkout; move it beside the spec"),
}


@pytest.mark.parametrize(("source", "task", "sentence"), BAD_OWN.values(), ids=BAD_OWN)
def test_a_file_that_is_no_task_is_refused(tmp_path, source, task, sentence):
    folder = spec_file(tmp_path, task, "").parent
    if source is not None:
        (folder / "mine.py").write_text(source)
    assert re.search(sentence, refused(tmp_path, task, ""))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "row['urgency']",
            "./mine.py line 22: example fails (KeyError: 'urgency'); name each column that example reads",
        ),
        (
            "int(row['urgent'])",
            "line 22: example fails (ValueError: invalid literal for int() with base 10: 'no'); correct",
        ),
    ],
)
def test_an_example_of_the_file_that_fails_names_file_and_row(tmp_path, line, sentence):
    path = spec_file(tmp_path, "./mine.py", "")
    (path.parent / "mine.py").write_text(OWN.replace('row["urgent"]', line))
    write_csv(tmp_path / "rows.csv", "text,urgent", ["hello,no", "bye,yes"])
    with pytest.raises(DataError) as error:
        examples_of(load_checked_spec(path), tmp_path)
    assert re.match(r".*rows\.csv, row 1 \(line 2\): ", str(error.value))
    assert sentence in str(error.value)


def test_an_edit_of_the_file_is_seen_at_once(tmp_path):
    """Also one of the same length within the same second, which Python's cache of compiled files takes for none."""
    path = spec_file(tmp_path, "./mine.py", "")
    (path.parent / "mine.py").write_text(OWN)
    before = load_task(load_spec(path))
    (path.parent / "mine.py").write_text(OWN.replace("VERSION = 1", "VERSION = 2"))
    after = load_task(load_spec(path))
    assert (before.version, after.version) == (1, 2)
    assert before.source != after.source
    assert {file.name for file in path.parent.iterdir()} == {"mine.toml", "mine.py"}, "nothing is left beside it"


def test_scores_name_a_task_of_the_checkout_only(tmp_path):
    class Named:
        name, measures = "desk/mine@12345678", {}

        def __init__(self, task):
            self.task = task

    (tmp_path.parent / "theirs.py").write_text("raise SystemExit('executed')")
    for task in ("../theirs.py", str(tmp_path.parent / "theirs.py"), "a/../../theirs.py"):
        with pytest.raises(ScoresError, match="lies outside the checkout"):
            metrics_of(Named(task), tmp_path)
    with pytest.raises(ScoresError, match="there is no .*gone.py"):
        metrics_of(Named("benchmarks/specs/desk/gone.py"), tmp_path)


# From rows to verdict

BENCHMARK = """
import pytest

pytestmark = pytest.mark.desk


def test_thresholds(spec, threshold, run):
    run.check(threshold)
"""


@pytest.fixture
def desk(checkout):
    """A checkout whose one phase is the user's own."""
    shutil.rmtree(checkout.path / "benchmarks" / "specs" / "phase1")
    (checkout.path / "benchmarks" / "test_phase1_financial_sentiment.py").unlink()
    (checkout.path / "benchmarks" / "test_desk_mine.py").write_text(BENCHMARK)
    return checkout


def write_csv(path: Path, header: str, lines: list[str]) -> None:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def compared(desk) -> str:
    """What `prism compare` prints of the latest run and itself."""
    out = desk.run(sys.executable, "-m", "prism", "compare", "reports/latest", "reports/latest")
    assert out.ret == 0, out.stderr.str()
    return out.stdout.str()


@pytest.mark.slow
def test_own_labels_from_csv_to_report(desk):
    words = {"refund": "I want my money back", "complaint": "nobody answers", "Very Happy": "great service"}
    lines = [f"order {n}: {text},desk {n % 3},{label.upper()}" for n in range(40) for label, text in words.items()]
    write_csv(desk.path / "rows.csv", "text,desk,label", lines)
    gate = "[gate.tier1]\naccuracy = { floor = 0.5 }\nknowledge_gain = { floor = 0.5 }\n"
    spec_file(desk.path, "classify", CLASSIFY, gate)
    out = desk.runpytest_subprocess("benchmarks", "-m", "desk", "--prism-profile", "nano")
    records = {record["metric"]: record for record in results(desk)["records"]}
    names = {"accuracy", "weighted_f1", "macro_f1", "unparsable_rate", "knowledge_gain", "worst_class_recall"}
    assert set(records) == names
    assert {*classification.UNTAUGHT, "classical"} <= set(records["accuracy"]["controls"])
    assert records["accuracy"]["controls"]["classical"]["value"] == 1
    out.assert_outcomes(passed=2)
    report = (desk.path / "reports" / "latest" / "report.md").read_text()
    assert "Very Happy" in report
    table = compared(desk)
    assert all(name in table for name in ("accuracy", "macro_f1", "unparsable_rate"))


@pytest.mark.slow
def test_own_questions_from_csv_to_report(desk):
    lines = [f"Which desk handles order {n}?,The {('loans', 'cards')[n % 2]} desk" for n in range(80)]
    write_csv(desk.path / "rows.csv", "question,answer", lines)
    gate = "[gate.tier1]\nexact_match = { floor = 0.0 }\n[gate.tier2]\nkeyword_coverage = { floor = 0.0 }\n"
    (spec_file(desk.path, "answer", "").parent / "terms.txt").write_text("loans desk\ncards desk\n")
    spec_file(desk.path, "answer", ANSWER + 'lexicon = "terms.txt"\n', gate)
    desk.runpytest_subprocess("benchmarks", "-m", "desk", "--prism-profile", "nano").assert_outcomes(passed=2)
    records = {record["metric"]: record for record in results(desk)["records"]}
    names = {"exact_match", "f1", "rouge1", "rouge2", "rougeL", "content_gain", "keyword_coverage"}
    assert set(records) == names | {*RATES}
    assert "most_frequent" in records["exact_match"]["controls"]
    assert records["keyword_coverage"]["n"] == records["exact_match"]["n"] == 20
    table = compared(desk)
    assert all(name in table for name in ("exact_match", "rougeL", "keyword_coverage"))


@pytest.mark.slow
def test_a_module_beside_the_spec_from_csv_to_report_on_workers(desk):
    write_csv(desk.path / "rows.csv", "text,urgent", [f"ticket {n},{('no', 'yes')[n % 2]}" for n in range(80)])
    path = spec_file(desk.path, "./urgent.py", "", "[gate.tier1]\naccuracy = { floor = 0.0 }\n")
    (path.parent / "urgent.py").write_text(OWN)
    options = ("benchmarks", "-m", "desk", "--prism-profile", "nano")
    desk.runpytest_subprocess(*options, "-n", "1").assert_outcomes(passed=1)
    (scores,) = (desk.path / "reports" / "latest" / "scores").rglob("*.json")
    assert read_scores(scores).task == "benchmarks/specs/desk/urgent.py"
    assert "accuracy" in compared(desk)
    listed = desk.run(sys.executable, "-m", "prism", "specs")
    listed.stdout.fnmatch_lines(["yes *desk/mine *"])
    (path.parent / "urgent.py").write_text(OWN.replace('"edition": 1', '"edition": 2'))
    desk.runpytest_subprocess(*options).assert_outcomes(passed=1)
    (measured,) = results(desk)["specs"]
    assert measured["details"]["answers"]["tuned"]["edition"] == 2, "no table of the old source is shown"
