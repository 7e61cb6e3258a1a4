"""Answers that know nothing: how they are made from rows, what they pass, and that no bundled gate lets one pass."""

from dataclasses import replace
from pathlib import Path

import pytest

from prism.metrics import HARDEST
from prism.metrics.finance import evidence_overlap
from prism.plugin.results import verdict
from prism.rows import Example
from prism.spec import find_phases, find_specs, load_spec
from prism.tasks import load_task, medical_chat
from prism.tasks.finance_qa import example as filed
from prism.verdicts import contenders
from prism.verdicts.record import Result, Verdict, empty_record
from tests.conftest import ROOT, SPEC, examples_of, results
from tests.scored import LABELS, tiny_spec

SPECS = ROOT / "benchmarks" / "specs"
DATA = ROOT.parent / "shared/data"
DRUGS = ("penicillin", "amoxicillin", "warfarin", "heparin", "insulin", "metformin")


def asked(question: str, reference: str, id: str = "a", **facts) -> Example:
    return Example(id, ({"role": "user", "content": question},), reference, group=id, facts=facts)


def cards(drugs=DRUGS, n: int = 10) -> list[Example]:
    """Questions whose words come back in the gold answer, n of each drug."""
    return [
        asked(f"What does {drug} treat in ward {i}?", f"In ward {i} {drug} is used to treat", f"{drug} {i}")
        for drug in drugs
        for i in range(n)
    ]


def test_a_question_is_repeated_to_forty_words_and_an_empty_one_stays_empty():
    said = contenders.repeated("What is a stroke?")
    assert said.split() == ["What", "is", "a", "stroke?"] * 10
    assert contenders.repeated("") == ""
    assert len(contenders.repeated("why " * 60).split()) == 40


def test_the_nearest_training_answer_is_found_by_letters_in_free_text_and_by_words_for_labels():
    training = [asked("What is warfarin?", "for clots"), asked("What is penicillin?", "for germs")]
    said = contenders.nearest(training, [asked("What is amoxicillin?", ""), asked("Warfarins?", "")], letters=True)
    assert said == ["for germs", "for clots"], "what all questions share does not count"
    tweets = [asked(f"Bullish or bearish?\nshares {way}", label) for way, label in (("rise", "up"), ("fall", "down"))]
    assert contenders.nearest(tweets, [asked("Bullish or bearish?\nbanks fall", "")], letters=False) == ["down"]


def test_questions_without_a_word_have_a_nearest_answer_all_the_same():
    training = [asked("?", "first"), asked("!", "second")]
    assert contenders.nearest(training, [asked("…", "")] * 3, letters=True) == ["first"] * 3


def test_thousands_of_questions_are_matched_in_chunks_to_their_own_training_row():
    training = [asked(f"ward{i} bed{i % 7}", str(i)) for i in range(900)]
    some = training[::2]
    assert contenders.nearest(training, some, letters=False) == [example.reference for example in some]
    assert len(some) > 2 * contenders.CHUNK


REPORT = """Made-up Mills, annual report 2019
| $ thousand | 2019 | 2018 |
|---|---|---|
| Revenue | 1,204.5 | 998.0 |
| Costs | 11.0 | 12.5 |
Flour was sold in 2018 and in 2019 to bakeries all over the county and beyond it."""


def test_figure_and_quotation_of_a_filing_have_the_form_of_an_answer_and_are_evidence_of_nothing():
    row = {"report": REPORT, "question": "What were the costs in 2018?", "answer": "12.5", "scale": "thousand"}
    question = filed(row, "a")
    figure, quoted = contenders.first_figure(REPORT), contenders.quotation(REPORT)
    assert figure == '1,204.5\n"Revenue | 1,204.5 | 998.0"', "a year is no figure"
    text, evidence = quoted.split("\n")
    assert evidence == f'"{text}"'
    assert text in REPORT
    assert len(text.split()) <= contenders.QUOTED
    assert contenders.first_figure("No figure in 2019.").startswith("No figure in 2019."), "then a quotation"
    assert evidence_overlap(question, question.reference) == 1


def test_which_contenders_apply_follows_from_what_the_rows_and_the_task_have(tmp_path):
    training, rouge = cards(), medical_chat.METRICS[2]
    made = contenders.answers(training, training[:5], rouge, False, None)
    assert set(made) == {
        "question echo",
        "question repeated to 40 words",
        "constant answer",
        "best constant training answer",
        "nearest training answer",
    }
    assert all(len(answers) == 5 for answers in made.values())
    lexicon = tmp_path / "own.txt"
    lexicon.write_text("penicillin\nwarfarin = coumadin\nward\n")
    training = [*training, *(asked("?", "coumadin in a ward") for _ in range(5))]
    assert (
        contenders.answers(training, training, rouge, False, lexicon)["lexicon list"][0] == "ward, warfarin, penicillin"
    )
    unknown = contenders.answers([], [asked("?", "no"), asked("?", "yes"), asked("?", "yes")], rouge, False, lexicon)
    assert set(unknown) == {"question echo", "question repeated to 40 words", "constant answer"}, "a finished adapter"
    assert unknown["constant answer"] == ["yes"] * 3
    filings = contenders.answers([], [asked("?", "1", context=REPORT)], rouge, False, None)
    assert {"first figure of the filing", "a quotation chosen without the question"} <= set(filings)


def test_the_best_constant_answer_is_the_one_that_scores_best_and_not_the_most_frequent():
    rouge = medical_chat.METRICS[2]
    training = [asked("?", "zebra")] * 3 + [asked("?", "it is used to treat pain"), asked("?", "lions")]
    made = contenders.answers(training, cards(), rouge, False, None)
    assert made["constant answer"][0] == "zebra"
    assert made["best constant training answer"][0] == "it is used to treat pain"


GATE = """
[gate.tier1]
accuracy        = {{ floor = 0.3, gain = {gain}, drop = 0.01 }}
unparsable_rate = {{ ceiling = 0.01 }}
"""


def labelled(folder: Path, gain: float, n: int = 90):
    text = SPEC.partition("[gate.tier1]")[0] + GATE.replace("{gain}", str(gain))
    held_out = [asked(f"q{i}", LABELS[i % 3], f"{i:03}") for i in range(n)]
    return tiny_spec(folder, text), held_out


def met(spec, held_out, baseline, said):
    metrics = load_task(spec).metrics
    silent = {"label_likelihood": [""] * len(held_out)}
    return contenders.meet(spec, metrics, held_out, "ab" * 32, baseline, silent, said)


def test_a_contender_meets_floor_ceiling_and_gain_by_the_gate_and_no_drop(tmp_path):
    spec, held_out = labelled(tmp_path, 0.3)
    found = met(spec, held_out, [""] * 90, {"echo": ["what?"] * 90, "constant answer": ["neutral"] * 90})
    assert found["thresholds"] == ["tier1-accuracy-floor", "tier1-accuracy-gain", "tier1-unparsable_rate-ceiling"]
    first, second = found["contenders"]
    assert first["name"] == "constant answer", "the nearest to the gate comes first"
    assert list(first["passes"]) == found["thresholds"]
    assert first["values"]["accuracy"] == pytest.approx(1 / 3)
    assert second["passes"] == ()
    assert contenders.passing(found) == ["constant answer"]


def test_a_gain_that_chance_may_have_made_is_not_passed(tmp_path):
    spec, held_out = labelled(tmp_path, 0.0)
    right = [example.reference for example in held_out]
    baseline = ["neutral" if i < 45 else right[i] for i in range(90)]
    once = [right[1] if i == 1 else said for i, said in enumerate(baseline)]
    found = met(spec, held_out, baseline, {"one more": once, "all": right})
    passes = {contender["name"]: contender["passes"] for contender in found["contenders"]}
    assert "tier1-accuracy-gain" in passes["all"]
    assert "tier1-accuracy-gain" not in passes["one more"], "one sample of 90"
    assert "tier1-accuracy-floor" in passes["one more"]


def test_the_hardest_control_and_unscored_samples_are_read_as_the_adapters_are(tmp_path):
    spec, held_out = labelled(tmp_path, 0.3)
    accuracy = load_task(spec).metrics[0]
    hardest = replace(accuracy, against=HARDEST, name="accuracy")
    right = [example.reference for example in held_out]
    controls = {"weak": [""] * 90, "strong": right}
    found = contenders.meet(spec, [hardest], held_out, "ab" * 32, [""] * 90, controls, {"all": right})
    assert list(found["contenders"][0]["passes"]) == ["tier1-accuracy-floor"], "no gain over the strong control"


def test_the_headline_of_a_pass_names_the_gates_that_a_contender_passes(tmp_path):
    spec, _ = labelled(tmp_path, 0.3)
    met = {"thresholds": ["tier1-accuracy-floor"], "contenders": [{"name": "echo", "passes": ["tier1-accuracy-floor"]}]}
    for state, said in (("holds", "pass"), ("fails", "fail")):
        record = empty_record(spec, "ab" * 32, "tier1", "accuracy", 0, verdicts=(Verdict("floor", 0.5, state, ""),))
        result = Result("phase1", "tiny", "", "nano", (record,), {"contenders": met}, {}, ("tier1-accuracy-floor",))
        decision, reason = verdict([result], [], ())
        named = "; answers that know nothing would pass the gate of phase1/tiny"
        assert (decision, reason.endswith(named)) == (said, said == "pass")
        plain = replace(result, details={"contenders": {**met, "contenders": [{"name": "echo", "passes": []}]}})
        assert named not in verdict([plain], [], ())[1]


def test_every_run_says_what_the_contenders_pass(checkout):
    checkout.runpytest_subprocess("benchmarks", "-m", "phase1", "--prism-profile", "nano")
    table = results(checkout)
    found = table["specs"][0]["details"]["contenders"]
    assert found["thresholds"] == ["tier1-accuracy-floor", "tier1-accuracy-gain", "tier1-unparsable_rate-ceiling"]
    passed = [contender["name"] for contender in found["contenders"] if len(contender["passes"]) == 3]
    assert passed == ["nearest training answer"], "one word tells the made-up rows apart"
    report = (checkout.path / "reports" / "latest" / "report.md").read_text()
    assert "This gate asks for no knowledge: nearest training answer would pass it" in report


# --- no bundled gate lets one pass ----------------------------------------------------------------------------------


def bundled(here: bool) -> list:
    """The gated specs of nano whose rows are in the repository; or those of any profile whose rows lie in ../shared/data."""
    found = []
    for phase in find_phases(SPECS):
        for path in find_specs(SPECS, phase):
            spec = load_spec(path)
            own = (ROOT / spec.data.path).exists()
            there = bool(spec.data.name) and (DATA / spec.data.name).exists()
            if any(spec.limits()) and (own and spec.profile == "nano" if here else there and not own):
                found.append(pytest.param(spec, id=spec.id))
    return found


def passing(spec, pictures: Path) -> list[str]:
    """The contenders that pass the gate of a spec, against a base and controls that say nothing: the most lenient."""
    task = load_task(spec)
    training, held_out = examples_of(spec, ROOT, DATA, pictures=pictures)
    silent = [""] * len(held_out)
    named = [(m.against,) if isinstance(m.against, str) else m.against for m in task.metrics if m.against != HARDEST]
    measured = dict.fromkeys((name for names in named for name in names), silent)
    measured |= {name: [answer] * len(held_out) for name, answer in task.fixed.items()}
    measured |= {name: contend(training, held_out) for name, contend in task.contenders.items() if training}
    return contenders.passing(
        contenders.found(spec, task, training, held_out, "ab" * 32, measured | {"baseline": silent})
    )


@pytest.mark.parametrize("gated", bundled(here=True))
def test_no_contender_passes_a_bundled_gate(gated, tmp_path):
    assert passing(gated, tmp_path) == []


@pytest.mark.skipif(not DATA.exists(), reason="the real data sets do not lie in ../shared/data")
@pytest.mark.parametrize("gated", bundled(here=False))
def test_no_contender_passes_a_gate_on_published_rows(gated, tmp_path):
    assert passing(gated, tmp_path) == []
