"""Leaks: planted twins are found and nothing else is, images too; dedupe removes training rows and no held-out one."""

import json
import random
from dataclasses import replace

import numpy
import pytest
from PIL import Image, ImageDraw

from prism.errors import DataError, SpecError
from prism.rows import Example, leaks
from prism.rows.leaks import Leaks, Twin, find_twins, leaking_places
from prism.spec import load_spec
from prism.store import digest
from prism.tasks import load_task
from prism.verdicts.scoring import score_without
from tests.conftest import ROOT, SPEC, examples_of, write_rows, write_spec

WORDS = [
    "shares",
    "rise",
    "fall",
    "profit",
    "loss",
    "bank",
    "quarter",
    "report",
    "market",
    "bond",
    "yield",
    "dollar",
    "growth",
    "outlook",
    "debt",
    "trade",
]


def examples(*texts, images=(), label="neutral"):
    files = images or [()] * len(texts)
    asked = [f"Is this tweet neutral, bullish or bearish?\n{text}" for text in texts]
    return [
        Example(f"id-{i}", ({"role": "user", "content": text},), label, f"{i}", tuple(shown))
        for i, (text, shown) in enumerate(zip(asked, files))
    ]


def sentences(n, seed):
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=14)) + f" {drawn.random():.9f}" for _ in range(n)]


def test_exact_near_and_neither():
    training = examples(
        "Acme shares rise 4 % after the report", "Oil falls again", "Acme shares rise 5 % after the report"
    )
    held_out = examples(
        "ACME shares rise 4% after a report!", "Oil falls again", "Bonds are flat", "Oil falls once more, again"
    )
    found = find_twins(training, held_out)
    assert found.held_out == {0: Twin(0, 1.0, "same words"), 1: Twin(1, 1.0, "exact")}
    assert (found.rows("exact"), found.rows("near"), found.leaked) == ({1}, {0, 1}, {0, 1})
    assert Leaks.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_instruction_that_every_question_holds_makes_no_twins():
    long = "Read the following text with care, think of its author's mood, then answer with one word.\n"
    found = find_twins(examples(long + "Up it goes", long + "Gold"), examples(long + "Down it goes", long + "Silver"))
    assert found.held_out == {}


def test_the_instruction_in_the_line_of_every_question_makes_no_twins():
    asked = (
        "Read this note with care, think of who wrote it and say how they feel about it, in a word: {} Your word is:"
    )
    written = [asked.format(f"{word} {other}") for word in WORDS for other in WORDS[:4] if word != other]
    training = examples(*written[:30])
    held_out = examples(*written[30:], asked.format(f"{WORDS[0]} {WORDS[3].upper()}!"))
    assert find_twins(training, held_out).held_out == {len(held_out) - 1: Twin(2, 1.0, "same words")}


def of(question, context="", answer="yes", **known):
    (asked,) = examples(question)
    return replace(asked, id=question, reference=answer, facts={"context": context} if context else {}, **known)


def test_a_context_is_compared_apart_from_its_question():
    filing, other, third = sentences(3, seed=5)
    training = [
        of("What was cash in 2019?", filing),
        of("What was debt in 2019?", filing),
        of("Who audits it?", filing),
        of("What was cash in 2019?", other),
    ]
    held_out = [
        of("What was cash in 2019?", filing),
        of("What was  CASH in 2019", f"{filing}. Its shares are listed in Oslo and were split in two."),
        of("What was cash in 2018?", filing),  # another question about the same filing
        of("Who audits it?", other),
        of("Who audits it?", third),  # the same question about another filing
        of("What was cash in 2019?"),
    ]
    found = find_twins(training, held_out)
    assert found.held_out == {0: Twin(0, 1.0, "exact"), 1: Twin(0, 1.0, "same words")}
    assert found.contexts == {2: 0, 3: 3}
    assert found.rows("near") == {0}
    told = found.by_id(training, held_out)
    assert told["What was cash in 2018?"] == {"context_in": "What was cash in 2019?"}
    assert found.summary(training, held_out)["contexts"] == 2


def test_answers_that_stand_in_training_answers_are_leaks_of_their_own():
    training = [
        of("What is a tendon?", answer="It is tissue. A tough cord of fibres ties a muscle to a bone; it is white."),
        of("How fast is it?", answer="It is fast, and no one knows why."),
        of("What is a twin?", answer="One of two children of one birth"),
    ]
    held_out = [
        of("What is a sinew?", answer="A tough cord of fibres ties a muscle to a bone."),
        of("What ties muscles?", answer="Cords of fibres tie a muscle to bones."),
        of("Is it fast?", answer="it is fast"),
        of("What is a twin?", answer="one of two\u200b childr\u0435n of one birth"),
        of("What is a birth?", answer="The birth of one child"),
    ]
    found = find_twins(training, held_out)
    assert found.answers == {0: 0, 3: 2}
    assert found.held_out.keys() == {3}
    assert found.leaked == {0, 3}
    assert found.rows("near") == {2}
    summary = found.summary(training, held_out)
    assert (summary["exact"], summary["answers"], summary["answers_only"]) == (1, 2, 1)
    assert summary["pairs"][-1] == {
        "held_out": "What is a sinew?",
        "training": "What is a tendon?",
        "similarity": 1.0,
        "kind": "answer",
    }
    assert found.by_id(training, held_out)["What is a sinew?"] == {"answer_in": "What is a tendon?"}


def test_labels_and_canned_answers_are_no_leaks():
    label = "This text tells of a risk"
    training = [of(text, answer=label if n % 4 else f"No {text}") for n, text in enumerate(sentences(80, 1))]
    assert find_twins(training, [of("A new one", answer=label)]).answers == {}
    assert find_twins(training[:8], [of("A new one", answer=label)]).answers == {0: 1}


def test_an_answer_that_is_read_from_a_context_or_an_image_leaks_only_with_it(tmp_path):
    filing, other = sentences(2, seed=6)
    answer = "Oakley and Partners of Leeds audit it"
    training = [of("Who audits the firm?", filing, answer), of("Who is named?", other, "nobody")]
    asked = [of("Name those who audit.", filing, answer), of("Name those who audit.", other, answer)]
    assert find_twins(training, asked).answers == {0: 0}
    seen = [replace(example, images=picture(tmp_path / f"{n}.png", n)) for n, example in enumerate(training)]
    assert find_twins(seen, [replace(asked[0], images=picture(tmp_path / "new.png", 9))]).answers == {}


def test_the_result_hangs_on_questions_contexts_and_answers():
    training, held_out = [of("Who?", "A filing", "Lee")], [of("When?", "A filing", "Now")]
    known = leaks.identity(training, held_out)
    for other in (of("Where?", "A filing", "Now"), of("When?", "Another", "Now"), of("When?", "A filing", "Then")):
        assert leaks.identity(training, [other]) != known
    assert leaks.identity(held_out, training) != known


def test_texts_without_words_are_no_twins_for_that():
    assert find_twins(examples("🚀🚀🚀", "…"), examples("🔥🔥", "🚀🚀🚀")).held_out == {1: Twin(0, 1.0, "exact")}


def picture(path, seed, size=(96, 96), **options):
    drawn = random.Random(seed)
    image = Image.new("L", (96, 96), 128)
    canvas = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = drawn.randrange(96), drawn.randrange(96), drawn.randrange(6, 30)
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=drawn.randrange(256))
    image.resize(size).save(path, **options)
    return (path,)


def test_images_are_twins_by_what_they_show(tmp_path):
    first, second = picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2)
    copy = picture(tmp_path / "c.jpg", 1, quality=50)
    small = picture(tmp_path / "d.png", 2, size=(48, 48))
    other = picture(tmp_path / "e.png", 3)
    training = examples("What is it?", "Is it round?", images=[first, second])
    held_out = examples("What is it?", "What is it?", "What is it?", "Where?", images=[copy, other, first, small])
    found = find_twins(training, held_out)
    assert {place: (twin.training, twin.exact) for place, twin in found.held_out.items()} == {
        0: (0, False),
        2: (0, True),
        3: (1, False),
    }
    assert (found.exact, found.near) == ([0], [1])
    assert leaks.identity(training, held_out) != leaks.identity(
        training, [*held_out[:3], replace(held_out[3], images=other)]
    )


def test_an_image_that_cannot_be_read(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    broken = examples("?", images=[(tmp_path / "broken.png",)])
    with pytest.raises(DataError, match=r"broken\.png: the image cannot be read .* restore the file"):
        find_twins(broken, broken)


def dedupe_spec(folder, rows, kind=None):
    data = write_rows(folder / "rows.jsonl", rows)
    text = SPEC.format(data=data, model="fixtures/models/nano-text")
    return load_spec(
        write_spec(folder, text.replace("train_rows", f'dedupe = "{kind}"\ntrain_rows' if kind else "train_rows"))
    )


def leaking_rows():
    """Every third row is there twice, once more with a stop at its end."""
    own = [{"tweet": text, "sentiment": n % 3} for n, text in enumerate(sentences(120, 3))]
    near = [{**row, "tweet": row["tweet"] + "!"} for row in own[::3]]
    return [*own, *own[::3], *near]


def test_dedupe_removes_training_rows_before_the_cut_and_no_held_out_one(tmp_path):
    plain = examples_of(dedupe_spec(tmp_path, leaking_rows()), tmp_path)
    assert {twin.exact for twin in find_twins(*plain).held_out.values()} == {True, False}
    for kind, left in (("exact", {False}), ("near", set())):
        training, held_out = examples_of(dedupe_spec(tmp_path, leaking_rows(), kind), tmp_path, leaking=leaking_places)
        assert held_out == plain[1]
        assert len(training) == len(plain[0]) == 96
        assert {twin.exact for twin in find_twins(training, held_out).held_out.values()} == left


# As they were before there was any dedupe.
IDS = [["5e5fdefffbe2", "6c2a6a322e40", "451370ffb757"], ["f4267a899be5", "189817c8c920", "4ee2ba8f4153"]]
BUNDLED = ["ccdce09cb506368e", "80163885e0387c67"]


def test_rows_and_names_without_dedupe_are_as_they_were(tmp_path, rows):
    """They are part of what measured results are stored under."""

    def refuse(*_):
        raise AssertionError("nothing is removed where nobody asked")

    training, held_out = examples_of(dedupe_spec(tmp_path, rows), tmp_path, leaking=refuse)
    assert [example.id for example in training[:3]] == IDS[0]
    assert [example.id for example in held_out[:3]] == IDS[1]
    bundled = examples_of(load_spec(ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml"), ROOT)
    names = ["".join(example.id for example in part) for part in bundled]
    assert [digest(name)[:16] for name in names] == BUNDLED


def test_a_dedupe_that_leaves_nothing_and_one_that_is_misspelt(tmp_path):
    rows = [{"tweet": "Same text", "sentiment": n % 3} for n in range(160)]
    with pytest.raises(DataError, match=r'dedupe = "near": each of 120 training rows has a held-out twin'):
        examples_of(dedupe_spec(tmp_path, rows, "near"), tmp_path, leaking=leaking_places)
    with pytest.raises(SpecError, match=r"\[data\] dedupe = 'fuzzy': must be 'exact' or 'near'"):
        dedupe_spec(tmp_path, rows, "fuzzy")


def test_score_without_leaked_samples_is_the_score_of_the_others():
    spec = load_spec(ROOT / "benchmarks" / "specs" / "phase1" / "nano.toml")
    metrics = load_task(spec).metrics
    labels = ["neutral", "bullish", "bearish"]
    held_out = [replace(example, reference=labels[i % 3]) for i, example in enumerate(examples(*sentences(60, 4)))]
    right = [example.reference for example in held_out]
    after = [answer if i < 20 else "neutral" for i, answer in enumerate(right)]  # the first twenty are known by heart
    records = {r.metric: r for r in score_without(range(20), spec, metrics, held_out, "", ["?"] * 60, {42: after})}
    expected = numpy.mean([answer == truth for answer, truth in zip(after[20:], right[20:])])
    assert records["accuracy"].n == 40
    assert records["accuracy"].tuned.value == pytest.approx(expected)
    assert score_without(range(60), spec, metrics, held_out, "", ["?"] * 60, {42: after}) == []


@pytest.mark.slow
@pytest.mark.usefixtures("new_interpreter")
def test_a_run_reports_its_leaks_and_a_repetition_looks_for_none(checkout):
    """In the details, the reports and the samples; a cached run does not even import datasketch."""
    conftest = checkout.path / "conftest.py"
    said = "import sys\ndef pytest_unconfigure(): print('imported:', {'datasketch', 'torch'} & sys.modules.keys())\n"
    conftest.write_text(conftest.read_text() + said)
    write_rows(checkout.path / "data" / "train.jsonl", leaking_rows())
    path = checkout.path / "benchmarks" / "specs" / "phase1" / "tiny.toml"
    text = path.read_text().replace("eval_rows = 40", "eval_rows = 50\ndedupe = 'exact'")
    path.write_text(text.replace("max_seq_length = 128", "max_seq_length = 256"))
    options = ("benchmarks", "-m", "phase1", "--prism-profile", "nano", "--prism-spec", "tiny")
    out = checkout.runpytest_subprocess(*options)
    out.stdout.fnmatch_lines(["imported: *datasketch*"])
    assert "leaks, 50 held-out samples against 150 training rows" in out.stderr.str()
    reports = checkout.path / "reports" / "latest"
    (spec,) = json.loads((reports / "results.json").read_text())["specs"]
    found = spec["details"]["leaks"]
    training, held_out = examples_of(
        load_spec(path), checkout.path, leaking=lambda pool, held, kind: find_twins(pool, held).rows(kind)
    )
    planted = find_twins(training, held_out)
    assert found["removed"] > 0
    assert (found["exact"], found["near"]) == (0, len(planted.held_out))
    assert found["near"] > 5
    ids = {(held_out[place].id, training[twin.training].id) for place, twin in planted.held_out.items()}
    assert {(pair["held_out"], pair["training"]) for pair in found["pairs"]} <= ids
    lines = (reports / "samples" / "phase1-tiny.jsonl").read_text().splitlines()
    assert {(s["id"], s["twin"]["training"]) for s in map(json.loads, lines) if "twin" in s} == ids
    assert {json.loads(line).get("twin", {}).get("kind") for line in lines} == {None, "same words"}
    assert found["kinds"] == {"same words": found["near"]}
    assert found["clean"][0]["n"] == 50 - found["near"]
    sentence = (
        f"Leaks: 0 of 50 held-out samples have an exact twin among the training rows and {found['near']} more a near"
        f" one ({found['near']} same words)"
    )
    for report in ("report.md", "report.html"):
        text = (reports / report).read_text(encoding="utf-8")
        assert sentence in text
        assert found["pairs"][0]["training"] in text
    again = checkout.runpytest_subprocess(*options)
    again.stdout.fnmatch_lines(["imported: set()"])
    assert "leaks," not in again.stdout.str() + again.stderr.str()
    (spec,) = json.loads((reports / "results.json").read_text())["specs"]
    assert spec["details"]["leaks"] == found
