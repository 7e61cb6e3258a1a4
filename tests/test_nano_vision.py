"""The drawn pictures, the two bundled sets made of them, and the nano vision base that reads them."""

import json
import random
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import imagehash
import numpy
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from fixtures.make import (
    charts_and_receipts,
    pictures_cards,
    pictures_charts,
    pictures_phantoms,
    pictures_receipts,
    radiology_phantoms,
)
from fixtures.make.pictures import SIZE
from fixtures.make.pictures_charts import Chart
from fixtures.make.pictures_phantoms import Scan, Spot
from fixtures.make.pictures_receipts import Receipt

ROOT = Path(__file__).parents[1]
PHANTOMS, CHARTS = ROOT / radiology_phantoms.OUT, ROOT / charts_and_receipts.OUT
MODEL = ROOT / "fixtures/models/nano-vision"
WORDS = ("apple", "river", "table", "station")


def rows_of(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]


# --- drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: pictures_cards.draw(rng, WORDS),
        pictures_charts.draw,
        pictures_receipts.draw,
        pictures_phantoms.draw,
    ],
    ids=["cards", "charts", "receipts", "phantoms"],
)
def test_a_seed_names_a_picture(draw):
    for seed in range(12):
        first, second = draw(random.Random(seed)), draw(random.Random(seed))
        assert first.image.tobytes() == second.image.tobytes()
        assert first.questions == second.questions
        assert first.image.size == (SIZE, SIZE)
        assert len(first.questions) >= 3


def every(questions, facts):
    """What is asked about the same facts over 40 seeds."""
    return [question for seed in range(40) for question in questions(random.Random(seed), facts)]


def test_what_a_receipt_is_asked_follows_from_its_facts():
    receipt = Receipt("Harbor Books", "05/11/2024", (("Pen", 250), ("Map", 1199)), "card")
    told = {q.question: q.answer for q in every(pictures_receipts.plain_questions, receipt)}
    assert told["What is the total?"] == "14.49"
    assert told["Pen?"] == "2.50"
    assert told["Which name has 11.99?"] == "Map"
    assert told["Which name has the largest value?"] == "Map"
    assert told["Is Pen more than Map?"] == "no"
    asked = {ask.query: ask.label for ask in every(charts_and_receipts.receipt_questions, receipt)}
    assert asked["What was the cheapest item?"] == "Pen"
    assert asked["Did the Map cost more than the Pen?"] == "Yes"


def test_what_a_chart_is_asked_follows_from_its_facts():
    chart = Chart("column", "Sales", "2014", "region", ("North", "Asia"), (31, 58), ("red", "blue"), True)
    told = {q.question: q.answer for q in every(pictures_charts.plain_questions, chart)}
    assert told["What is Asia?"] == "58"
    assert told["Which name has the smallest value?"] == "North"
    assert told["Which colour is North?"] == "red"
    asked = {ask.query: ask.label for ask in every(charts_and_receipts.chart_questions, chart)}
    assert asked["Which region had the highest sales in 2014?"] == "Asia"
    assert asked["Did North have higher sales than Asia?"] == "No"
    assert asked["What was the sales in North in 2014?"] == "31"


def test_the_patients_left_is_the_pictures_right():
    spot = Spot("right", "upper", "large", "bright", "hollow")
    told = {ask.form: ask.answer for ask in radiology_phantoms.questions(Scan("chest", "X-ray", (spot,), base="left"))}
    assert told["lesion place"] == "upper left"
    assert told["lesion left"] == "yes"
    assert told["effusion side"] == "right"
    assert told["lesion texture"] == "cavitary"
    assert told["lesion several"] == "no"
    assert told["heart"] == "no"


@pytest.mark.parametrize(
    ("side", "half"), [("left", "upper"), ("right", "upper"), ("left", "lower"), ("right", "lower")]
)
def test_a_spot_is_drawn_where_the_facts_say(side, half):
    scans = [Scan("head", "CT", spots) for spots in ((Spot(side, half, "large", "bright", "smooth"),), ())]
    with_spot, without = (
        numpy.mean(
            [
                numpy.asarray(pictures_phantoms.scan_image(random.Random(i), scan).convert("L"), float)
                for i in range(30)
            ],
            axis=0,
        )
        for scan in scans
    )
    y, x = numpy.unravel_index((with_spot - without).argmax(), with_spot.shape)
    assert ("left" if x < SIZE / 2 else "right", "upper" if y < SIZE / 2 else "lower") == (side, half)


# --- the bundled sets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("maker", "folder"), [(radiology_phantoms, PHANTOMS), (charts_and_receipts, CHARTS)])
def test_the_bundled_rows_are_what_the_maker_makes(maker, folder):
    made = list(islice(maker.pictures(), 12))
    rows = [row for _, part in made for row in part]
    assert rows == rows_of(folder)[: len(rows)]
    for image, part in made:
        stored = Image.open(folder / part[0]["image"])
        # JPEG and the letters of another FreeType may differ by a little
        assert (
            numpy.abs(numpy.asarray(image.convert("L"), float) - numpy.asarray(stored.convert("L"), float)).mean() < 6
        )


@pytest.mark.parametrize("folder", [PHANTOMS, CHARTS])
def test_no_two_bundled_pictures_are_near_twins(folder):
    names = sorted({row["image"] for row in rows_of(folder)})
    marks = numpy.stack([imagehash.phash(Image.open(folder / name), hash_size=16).hash.ravel() for name in names])
    apart = (marks[:, None] != marks[None]).sum(-1)
    assert len(names) == 300
    assert apart[~numpy.eye(len(names), dtype=bool)].min() > 16
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 4_000_000


def test_a_constant_answer_is_worth_little():
    phantoms = rows_of(PHANTOMS)
    closed = Counter(row["answer"] for row in phantoms if row["answer_type"] == "CLOSED")
    assert set(closed) == {"yes", "no"}
    assert abs(closed["yes"] - closed["no"]) <= 0.06 * sum(closed.values())
    by_question = defaultdict(Counter)
    for row in phantoms:
        if row["answer_type"] == "CLOSED":
            by_question[row["question"]][row["answer"]] += 1
    common = [answers for answers in by_question.values() if sum(answers.values()) >= 20]
    assert max(max(answers.values()) / sum(answers.values()) for answers in common) < 0.7
    compared = Counter(row["label"][0] for row in rows_of(CHARTS) if row["question_type"] == "compare")
    assert abs(compared["Yes"] - compared["No"]) <= 0.1 * sum(compared.values())


def test_known_pictures_have_the_answers_that_they_show():
    """Read by eye off the stored pictures."""
    told = {(row["image"], row["query"]): row["label"] for row in rows_of(CHARTS)}
    assert told["images/002.png", "How much imports was reported for Kate in 2028?"] == ["60"]
    assert told["images/001.png", "Which product does the purple slice stand for?"] == ["Tools"]


# --- the model ----------------------------------------------------------------------------------------------------


def test_the_model_reads_pictures_and_not_blanks():
    processor, model = AutoProcessor.from_pretrained(MODEL), AutoModelForImageTextToText.from_pretrained(MODEL)
    model = model.float().eval()
    assert model.num_parameters() == pytest.approx(10.8e6, rel=0.01)
    assert max(path.stat().st_size for path in MODEL.glob("*.safetensors")) < 12_500_000
    processor.tokenizer.padding_side = "left"
    asked = []
    for seed in range(6):
        rng = random.Random(f"test {seed}")
        receipt, scan, chart = (
            pictures_receipts.facts(rng),
            pictures_phantoms.facts(rng),
            pictures_charts.facts(rng, printed=1),
        )
        image = pictures_receipts.print_receipt(rng, receipt).image
        asked.append((image, "What is the total?", pictures_receipts.money(receipt.total)))
        asked.append((image, "What is the date?", receipt.date))
        asked.append((pictures_phantoms.scan_image(rng, scan), "Which part of the body?", scan.region))
        value = chart.values[0]
        asked.append((pictures_charts.plot(rng, chart).image, f"Which name has {value}?", chart.names[0]))

    def right(images):
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
                add_generation_prompt=True,
                tokenize=False,
            )
            for _, question, _ in asked
        ]
        inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
        assert (inputs["input_ids"] == model.config.image_token_id).sum() == 100 * len(asked)
        with torch.no_grad():
            said = model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        answers = processor.tokenizer.batch_decode(said, skip_special_tokens=True)
        return sum(answer == told for answer, (_, _, told) in zip(answers, asked)) / len(asked)

    assert right([image for image, _, _ in asked]) >= 0.8
    assert right([Image.new("RGB", (SIZE, SIZE), (128, 128, 128))] * len(asked)) <= 0.3
