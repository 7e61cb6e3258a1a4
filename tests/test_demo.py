"""The demo: answers as they are written, what is offered and refused, and the page in a browser.

The page needs the extra `demo`, and playwright with a Chromium of the system for the browser:
pip install -c constraints-demo.txt -e '.[demo]' playwright
"""

from __future__ import annotations

import json
import re
import socket
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from prism.cli import app
from prism.demo import require_free, stage
from prism.demo.stage import CHARACTERS, Stage, offers, take
from prism.errors import DataError, ModelError, SpecError
from prism.models import adapters, generate, load
from prism.models.identity import adapter_identity
from prism.models.lazy import LazyBase
from prism.models.streaming import Voices
from prism.progress import CONSOLE
from prism.rows.answers import read_predictions
from prism.setting import Setting
from prism.spec import load_spec
from prism.store import Store
from prism.tasks.financial_sentiment import example
from tests.conftest import SPEC, examples_of, write_rows, write_spec
from tests.test_adapters import change_weights, make_adapter
from tests.test_report import CHROMIUM
from tests.test_vision import pictures, spec_text  # noqa: F401  # a fixture

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="the extra demo is not installed")
HTML = "<img src=x onerror=\"document.title='owned'\"> & <b>bold</b>"


# --- answers as they are written


@pytest.fixture
def ours(tiny, tmp_path, rows):
    data = write_rows(tmp_path / "rows" / "train.jsonl", rows)
    vocabulary = json.loads((tiny / "tokenizer.json").read_text())["model"]["vocab"]
    letters = {number for token, number in vocabulary.items() if token.isascii() and token.isalpha()}
    said = f"max_new_tokens = 12\nno_repeat_ngram_size = 1\nsuppress_tokens = {sorted(set(range(400)) - letters)}"  # noise, but of letters
    text = SPEC.format(data=data.parent, model=tiny).replace("max_new_tokens = 4", said)
    return load_spec(write_spec(tmp_path, text))


@pytest.fixture
def mine(tiny, tmp_path):
    return make_adapter(tiny, tmp_path / "mine", lora_alpha=64)


def written(ours, tmp_path, adapter, asked):
    """The answers of the path that measures."""
    base = load.load(ours, tmp_path)
    folder = tmp_path / f"answers-{adapter and adapter.name}"
    folder.mkdir()
    model = base.model if adapter is None else adapters.load_adapter(base, adapter)
    generate.answers(base, model, asked, folder)
    return [prediction.answer for prediction in read_predictions(folder, asked)]


def last(voices, spec, asked, worn=None):
    """The whole answer of the base or of one adapter."""
    [said] = list(voices.ask(spec, asked, [worn]))[-1]
    return said


def test_streamed_answers_are_those_that_are_measured(ours, tiny, tmp_path, rows, mine):
    other, asked = (
        make_adapter(tiny, tmp_path / "other", seed=1, lora_alpha=64),
        [example(row, str(n)) for n, row in enumerate(rows[:4])],
    )
    voices = Voices(load.load(ours, tmp_path))
    found = {}
    for worn in (None, mine, other, None, mine):  # each after another was worn
        found.setdefault(worn, []).append([last(voices, ours, one, worn).text for one in asked])
    for worn, runs in found.items():
        assert runs == [written(ours, tmp_path, worn, asked)] * len(runs)
    assert found[None][0] != found[mine][0] != found[other][0]


def test_answers_side_by_side_are_those_that_each_gives_alone(ours, tiny, tmp_path, rows, mine):
    other = make_adapter(tiny, tmp_path / "other", seed=1, lora_alpha=64)
    voices, alone = Voices(load.load(ours, tmp_path)), Voices(load.load(ours, tmp_path))
    for n, row in enumerate(rows[:4]):
        asked = example(row, str(n))
        for worn in ([None, mine], [mine, None], [None, other], [None, mine, other]):  # the first: on a plain base
            said = list(voices.ask(ours, asked, worn))
            assert [(one.text, one.tokens) for one in said[-1]] == [
                (one.text, one.tokens) for one in (last(alone, ours, asked, adapter) for adapter in worn)
            ]
            assert all(one.finished for one in said[-1])


def test_answers_grow_at_the_same_time(ours, tmp_path, rows, mine):
    long = ours.model_copy(update={"generate": {"max_new_tokens": 40, "min_new_tokens": 40}})
    voices, row = Voices(load.load(long, tmp_path)), example(rows[0], "0")
    said = list(voices.ask(long, row, [None, mine]))
    assert max(abs(base.tokens - tuned.tokens) for base, tuned in said) <= 20, "neither waits for the other's end"
    assert [one.tokens for one in said[-1]] == [40, 40]
    assert max(one.first for one in said[-1]) < min(one.seconds for one in said[-1])


def test_what_stops_one_answer_stops_no_other(ours, tmp_path, rows, mine):
    row, longer = example(rows[0], "0"), {**ours.generate, "min_new_tokens": 12}
    voices = Voices(load.load(ours, tmp_path))
    free = ours.model_copy(update={"generate": longer})
    base, tuned = (last(voices, free, row, worn).text for worn in (None, mine))
    place = next(n for n in range(2, len(base) - 1) if base[n : n + 2] not in tuned)
    stopped = ours.model_copy(update={"generate": {**longer, "stop_strings": [base[place : place + 2]]}})
    said = list(voices.ask(stopped, row, [None, mine]))[-1]
    assert [one.text for one in said] == [base[: base.index(base[place : place + 2])], tuned]


def test_an_answer_grows_with_its_tokens_and_its_time(ours, tmp_path, rows):
    said = [one for [one] in Voices(load.load(ours, tmp_path)).ask(ours, example(rows[0], "0"), [None])]
    assert said[-1].finished
    assert not any(one.finished for one in said[:-1])
    assert said[-1].text.startswith(said[0].text)
    assert [one.tokens for one in said] == sorted(one.tokens for one in said)
    assert 0 < said[-1].tokens <= 12
    assert 0 < said[-1].first <= said[-1].seconds


def test_answers_that_nobody_waits_for_end(ours, tmp_path, rows, mine):
    long = ours.model_copy(update={"generate": {"max_new_tokens": 40, "min_new_tokens": 40}})
    voices, before = Voices(load.load(long, tmp_path)), threading.active_count()
    asking = voices.ask(long, example(rows[0], "0"), [None, mine])
    next(asking)
    asking.close()
    assert threading.active_count() == before
    assert not voices.turn.locked()
    assert last(voices, long, example(rows[0], "0")).tokens == 40


def test_a_stop_string_ends_an_answer_as_it_does_in_a_run(ours, tmp_path, rows):
    asked = [example(row, str(n)) for n, row in enumerate(rows[:3])]
    whole = last(Voices(load.load(ours, tmp_path)), ours, asked[0]).text
    cut = ours.model_copy(update={"generate": {**ours.generate, "stop_strings": [whole[3:5]]}})
    voices = Voices(load.load(cut, tmp_path))
    assert [last(voices, cut, one).text for one in asked] == written(cut, tmp_path, None, asked)
    assert last(voices, cut, asked[0]).text == whole[:3]


def test_an_error_while_answering_is_raised_where_the_answer_is_read(ours, tmp_path, rows, monkeypatch):
    voices = Voices(load.load(ours, tmp_path))

    def fails(**options):
        raise MemoryError("full")

    monkeypatch.setattr(voices.model, "generate", fails)
    with pytest.raises(MemoryError, match="full"):
        last(voices, ours, example(rows[0], "0"))
    monkeypatch.undo()
    assert last(voices, ours, example(rows[0], "0")).finished, "the next one is answered"


def test_answers_by_beam_search_are_refused(ours, tmp_path, rows):
    beams = ours.model_copy(update={"generate": {"num_beams": 2}})
    with pytest.raises(SpecError, match=r"phase1/tiny.toml \[generate\] num_beams: .*; delete it"):
        last(Voices(load.load(ours, tmp_path)), beams, example(rows[0], "0"))


# --- what is offered, and what is refused


@pytest.fixture
def shop(ours, mine, tmp_path):
    """A checkout with one spec, a store with an adapter of it, and two that are for other rows or another base."""
    setting = Setting(tmp_path, Store(tmp_path / "home"), CONSOLE)
    training, _ = examples_of(ours, tmp_path)
    base = LazyBase(ours, tmp_path, tmp_path / "home", CONSOLE)
    identity = adapter_identity(ours, base.identity, training, 7, tmp_path)

    def work(folder: Path) -> dict:
        for file in mine.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return {}

    for change in ({"versions": {"torch": "1"}}, {"rows": "0" * 64}, {"base": {"bytes": "0" * 64}}):
        setting.store.make("adapters", {**identity, **change}, work)
    return setting


def stage_of(setting, **given):
    return Stage(offers(setting, "phase1/tiny", **given), setting, setting.root / "reports")


def asked(on, question="Company 3 shares rise on day 3", upload=None, place=0, adapter=None):
    [(name, offer)] = on.offers.items()
    return list(on.answers(name, adapter or next(iter(offer.adapters)), question, upload, place))


def test_the_adapters_of_a_spec_are_found_whatever_versions_made_them(shop):
    [offer] = offers(shop, "phase1/tiny").values()
    assert [re.fullmatch(r"seed 7 · [0-9a-f]{8}", name) is not None for name in offer.adapters] == [True]


def test_both_answer_and_the_page_is_told_what_they_were_asked(shop):
    on = stage_of(shop)
    seen = asked(on)
    base, base_spent, tuned, tuned_spent, prompt, _ = seen[-1]
    assert base != tuned
    assert any(row[1].endswith("s …") and row[3].endswith("s …") for row in seen), "both are written at the same time"
    assert prompt == "user: Is this tweet neutral, bullish or bearish?\nCompany 3 shares rise on day 3"
    for spent in (base_spent, tuned_spent):
        assert re.fullmatch(r"\d+ tokens? · first after \d\.\d\d s · \d\.\d\d s", spent)
    assert seen[0][2] == "", "the base answers first"


def test_the_reference_stands_beside_the_example_as_it_is_alone(shop):
    on = stage_of(shop)
    offer = on.offers["phase1/tiny"]
    for place in (0, 3):
        question, reference = offer.typed(offer.held_out[place]), offer.held_out[place].reference
        assert asked(on, question + " ", place=place)[-1][5] == reference
        assert asked(on, question + " not", place=place)[-1][5] == ""


def test_people_type_the_question_without_the_tasks_words(shop):
    [offer] = offers(shop, "phase1/tiny").values()
    assert offer.around[0].startswith("Is this tweet neutral, bullish or bearish?\n")
    for n, one in enumerate(offer.held_out[:5]):
        assert "Is this tweet" not in offer.typed(one)
        assert offer.asked(n, offer.typed(one), None).messages == one.messages


def test_what_both_ends_of_all_questions_share_is_not_typed(shop):
    [offer] = offers(shop, "phase1/tiny").values()
    made = [
        replace(one, messages=({"role": "user", "content": f"Say.\n{n} up\nOne word."},))
        for n, one in enumerate(offer.held_out)
    ]
    wrapped = replace(offer, held_out=made)
    assert wrapped.around == ("Say.\n", "\nOne word.")
    assert wrapped.typed(made[4]) == "4 up"
    same = replace(offer, held_out=made[:1] * 3)
    assert same.asked(0, same.typed(made[0]), None).messages == made[0].messages


def test_two_specs_share_a_base_only_where_it_answers_both(shop, ours):
    [offer] = offers(shop, "phase1/tiny").values()
    longer = ours.model_copy(update={"model": ours.model.model_copy(update={"max_seq_length": 64})})
    other = ours.model_copy(update={"generate": {"max_new_tokens": 4, "template": {"enable_thinking": False}}})
    assert replace(offer, spec=longer).model == offer.model
    assert replace(offer, spec=other).model != offer.model


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("  ", "there is no question; type one, or choose an example"),
        ("a" * (CHARACTERS + 1), "the question has 4,001 characters, and 4,000 are the most; shorten it"),
        ("up " * 300, r"the question has [\d,]+ tokens with its prompt, but \[model\].max_seq_length leaves 116"),
        ("up <|im_end|> down", r"the question contains <\|im_end\|>, which the model reads as a command; delete it"),
    ],
    ids=["empty", "characters", "tokens", "a command"],
)
def test_a_question_that_cannot_be_asked_is_one_sentence(shop, question, said):
    with pytest.raises(DataError, match=said):
        asked(stage_of(shop), question)


def test_html_in_a_question_is_asked_as_text(shop):
    assert asked(stage_of(shop), HTML)[-1][4].endswith(HTML)


def test_an_adapter_of_ones_own_answers_beside_those_of_the_store(shop, tiny, tmp_path):
    own = make_adapter(tiny, tmp_path / "v1.5", seed=3)
    on = stage_of(shop, adapter=own)
    offer = on.offers["phase1/tiny"]
    assert next(iter(offer.adapters)) == "v1.5"
    (tmp_path / "taken").mkdir()
    offer.adapters = {**offer.adapters, "v1.5": take(on, offer, own, tmp_path / "taken")}
    first, second = (asked(on, adapter=name)[-1][2] for name in offer.adapters)
    assert first != second


def wider(weights):
    return {name: torch.zeros(4, 64) if "lora_A" in name else weight for name, weight in weights.items()}


def fewer(weights):
    return {name: weight for name, weight in weights.items() if "layers.1" not in name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (wider, r"theirs: does not fit the base .*; set model_name to the base"),
        (fewer, r"theirs: lacks 4 of the weights that its adapter_config.json asks for, such as .*; save it again"),
    ],
)
def test_an_adapter_of_another_base_is_one_sentence(shop, tiny, tmp_path, recwarn, change, said):
    own = make_adapter(tiny, tmp_path / "theirs")
    change_weights(own, change)
    on = stage_of(shop, adapter=own)
    recwarn.clear()
    with pytest.raises(ModelError, match=said) as found:
        take(on, on.offers["phase1/tiny"], own, tmp_path / "home")
    assert "\n" not in str(found.value)
    assert not [one for one in recwarn if "adapter" in str(one.message)], "and not PEFT's list of all weights"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"only": "phase1/other"}, "--spec phase1/other: no such spec; `prism specs` lists"),
        ({"adapter": Path("mine")}, "--adapter mine: say which spec's questions it answers with --spec"),
    ],
)
def test_what_is_not_there_is_not_offered(shop, given, said):
    with pytest.raises(ModelError, match=re.escape(said)):
        offers(shop, **given)


def test_an_empty_store_says_how_to_fill_it(shop, tmp_path):
    empty = replace(shop, store=Store(tmp_path / "empty"))
    said = "holds no adapter for phase1/tiny; train one with `pytest benchmarks --prism-spec phase1/tiny`"
    with pytest.raises(ModelError, match=said):
        offers(empty, "phase1/tiny")


def test_a_port_in_use_is_one_sentence_before_anything_is_loaded(shop, tmp_path, monkeypatch):
    monkeypatch.setattr("prism.demo.find_spec", lambda name: True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(
            app, ["demo", "--port", str(port), "--root", str(tmp_path), "--home", str(tmp_path / "home")]
        )
    assert done.exit_code == 2
    assert re.fullmatch(
        rf"prism: --host 127\.0\.0\.1 --port {port}: cannot be listened on \(Address already in use.*\); choose another\n",
        done.stderr,
    )
    require_free("127.0.0.1", port)


def test_without_gradio_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("prism.demo.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["demo", "--root", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr == "prism: prism demo needs Gradio; install it with pip install 'pytest-prism[demo]'\n"


def test_the_newest_report_of_the_spec_stands_beside_it(shop):
    on = stage_of(shop)
    assert on.report("phase1/tiny") == ""
    for run, text in (("20260101-000000-1", "old"), ("20260102-000000-1", "new"), ("20260103-000000-1", "")):
        folder = shop.root / "reports" / "runs" / run
        (folder / "samples").mkdir(parents=True)
        if text:
            (folder / "samples" / "phase1-tiny.jsonl").write_text("{}\n")
        other = '<section id="phase2-x">other</section>'
        page = f'<html><head><style></style></head>\n<body>head{other}<section id="phase1-tiny" a="b">{text}</section>{other}</body>'
        (folder / "report.html").write_text(page)
    on = stage_of(shop)
    found = on.report("phase1/tiny")
    assert '<section id="phase1-tiny" a="b">new</section></body>' in found
    assert "other" not in found


# --- pictures


@pytest.fixture
def looking(tmp_path, tiny_vision, pictures):  # noqa: F811
    """A stage whose one spec asks about pictures; its adapter is random."""
    path = write_spec(tmp_path, spec_text(tiny_vision, pictures).replace("max_new_tokens = 4", "max_new_tokens = 3"))
    ours = load_spec(path)
    setting = Setting(tmp_path, Store(tmp_path / "home"), CONSOLE)
    base = LazyBase(ours, tmp_path, tmp_path / "home", CONSOLE)
    training, _ = examples_of(ours, tmp_path, pictures=tmp_path / "home" / "images")
    identity = adapter_identity(ours, base.identity, training, 42, tmp_path)

    def work(folder: Path) -> dict:
        load.add_adapter(base.load(), 0).save_pretrained(folder)
        return {}

    setting.store.make("adapters", identity, work)
    return stage_of(setting)


def test_a_picture_is_asked_about_and_not_kept(looking, tmp_path):
    picture = tmp_path / "upload.png"
    Image.new("RGB", (60, 40), "red").save(picture)
    before = set((tmp_path / "home" / "images").iterdir())
    assert asked(looking, "Is it red?", str(picture))[-1][4:] == ["user: Is it red?", ""]
    offer = looking.offers["phase1/tiny"]
    own = offer.held_out[0]
    assert asked(looking, offer.typed(own), str(own.images[0]))[-1][5] == own.reference
    assert asked(looking, offer.typed(own), str(picture))[-1][5] == "", "it is of another picture"
    assert set((tmp_path / "home" / "images").iterdir()) == before


def test_a_picture_that_cannot_be_asked_about_is_one_sentence(looking, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="phase1/tiny asks about pictures; add one, or choose an example"):
        asked(looking, "Is it red?")
    text = tmp_path / "upload.svg"
    text.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(DataError, match="your picture: image 'upload': is SVG; convert it to PNG or JPEG"):
        asked(looking, "Is it red?", str(text))
    monkeypatch.setattr("prism.demo.stage.UPLOAD_MIB", 0.0001)
    large = tmp_path / "large.png"
    Image.effect_noise((80, 80), 90).save(large)
    with pytest.raises(DataError, match=r"the picture has 0\.0 MiB, and 0\.0001 are the most; make it smaller"):
        asked(looking, "Is it red?", str(large))


def test_a_picture_of_too_many_pixels_is_refused_from_its_header(looking, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("1", (12_000, 9_000)).save(wide)
    assert wide.stat().st_size < stage.UPLOAD_MIB * 2**20
    with pytest.raises(DataError, match=r"12,000 × 9,000 pixels are more than \[image\].max_megapixels"):
        asked(looking, "Is it red?", str(wide))


# --- the page


@pytest.fixture
def address(shop, request, monkeypatch):
    """The address of the page, served with a second offer; nothing but this machine may be asked for."""
    from prism.demo.page import launch

    reached, ask = [], socket.getaddrinfo

    def watched(host, *arguments, **options):
        reached.append(host)
        return ask(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    on = stage_of(shop)
    if "looking" in request.fixturenames:
        seeing = request.getfixturevalue("looking").offers["phase1/tiny"]
        on.offers = {**on.offers, "phase5/tiny": seeing}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = launch(on, "127.0.0.1", port, block=False)
    yield f"http://127.0.0.1:{port}/"
    served.close()
    assert set(reached) <= {"127.0.0.1", "localhost", None, b"127.0.0.1"}


@needs_gradio
def test_the_page_may_begin_with_a_phase_of_pictures(looking):
    from prism.demo.page import blocks

    (picture,) = [part for part in blocks(looking).blocks.values() if part.get_block_name() == "image"]
    assert picture.visible
    assert Path(picture.value["path"]).is_file()


@needs_gradio
@pytest.mark.slow
def test_eight_people_at_once_are_all_answered(address, shop):
    from gradio_client import Client

    adapter = next(iter(offers(shop, "phase1/tiny")["phase1/tiny"].adapters))
    found, threads = [], []
    for n in range(8):
        client = Client(address, verbose=False)

        def ask(client=client, n=n):
            found.append(client.predict("phase1/tiny", adapter, f"Company {n} shares fall", None, api_name="/ask"))

        threads.append(threading.Thread(target=ask))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert sorted(one[4].rpartition("\n")[2] for one in found) == [f"Company {n} shares fall" for n in range(8)]


@needs_gradio
@pytest.mark.slow
def test_a_refusal_reaches_the_page_as_a_sentence(address, shop):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    adapter = next(iter(offers(shop, "phase1/tiny")["phase1/tiny"].adapters))
    with pytest.raises(AppError, match="there is no question; type one, or choose an example"):
        client.predict("phase1/tiny", adapter, "", None, api_name="/ask")


@needs_gradio
@pytest.mark.slow
def test_an_upload_over_the_limit_is_refused_and_answers_forbid_other_hosts(address):
    import httpx

    large = {"files": ("large.png", b"\0" * (stage.UPLOAD_MIB * 2**20 + 1), "image/png")}
    assert httpx.post(f"{address}gradio_api/upload", files=large).status_code == 413
    policy = httpx.get(address).headers["content-security-policy"]
    assert policy.startswith("default-src 'self' ")
    assert "http" not in policy


@needs_gradio
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or find_spec("playwright") is None, reason="needs chromium and playwright")
def test_the_page_in_a_browser(address, looking, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    picture = tmp_path / "upload.png"
    Image.new("RGB", (60, 40), "red").save(picture)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        others, faults = [], []
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else others.append(asked.url),
        )
        page.on("pageerror", lambda fault: faults.append(str(fault)))
        page.goto(address)
        answered = re.compile(r"^\s*\d+ tokens? · first after \d+\.\d\d s · \d+\.\d\d s\s*$")

        expect(page.locator("#reference textarea")).not_to_have_value("")
        expect(page.locator("#report")).to_contain_text("No run in reports/ has measured this spec yet")
        page.locator("#question textarea").fill(HTML)
        page.locator("#ask").click()
        expect(page.locator("#tuned-spent")).to_have_text(answered, timeout=30_000)
        expect(page.locator("#base-spent")).to_have_text(answered)
        expect(page.locator("#reference textarea")).to_have_value("")
        page.get_by_text("What both were asked, word for word").click()
        expect(page.locator("#prompt textarea")).to_have_value(re.compile(re.escape(HTML)))
        assert page.locator("img[src='x']").count() == 0
        assert page.title() == "PRISM demo"

        page.locator("#examples tbody tr").nth(2).click()
        expect(page.locator("#question textarea")).not_to_have_value(HTML)
        expect(page.locator("#reference textarea")).not_to_have_value("")

        page.get_by_label("Phase").click()
        page.get_by_role("option", name="phase5/tiny").click()
        expect(page.locator("#picture img")).to_be_visible()
        expect(page.locator("#tuned textarea")).to_have_value("")
        page.get_by_label("Remove Image", exact=False).or_(page.get_by_label("Clear")).first.click()
        page.locator("#picture input[type=file]").set_input_files(picture)
        expect(page.locator("#picture img")).to_be_visible()
        page.locator("#question textarea").fill("Is it red?")
        page.locator("#ask").click()
        expect(page.locator("#tuned-spent")).to_have_text(answered, timeout=30_000)

        page.locator("#question textarea").fill("")
        page.locator("#ask").click()
        expect(page.get_by_text("there is no question; type one, or choose an example")).to_be_visible()

        phone = browser.new_page(viewport={"width": 390, "height": 844})
        phone.goto(address)
        expect(phone.locator("#ask")).to_be_visible()
        assert phone.evaluate("document.documentElement.scrollWidth") == 390
        assert phone.locator("#ask").bounding_box()["y"] < 844, "the button is on the first screen"
        browser.close()
    assert (others, faults) == ([], [])
