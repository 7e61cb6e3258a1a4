"""The nano base: nothing that is held out gets into its training text, and what it is made into loads and fits."""

import json
import random
import re
from pathlib import Path

import pytest

from fixtures.make import nano_chat
from fixtures.make.nano_corpus import (
    Corpus,
    clean_prose,
    clean_textbook,
    encode,
    key,
    normalize_tweet,
    read_splits,
    train_tokenizer,
    without,
)
from fixtures.make.nano_text import CHAT_TEMPLATE, configuration, rate_at, wrap

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "fixtures/models/nano-text"
DATA = ROOT.parent / "shared/data"

needs_model = pytest.mark.skipif(
    not (MODEL / "model.safetensors").exists(), reason="fixtures/models/nano-text is not made"
)
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the real data sets do not lie in ../shared/data")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    line = "Shares of $ACME rose 12.5% in 2019 after the board raised its outlook, and buyers came back [URL] 🚀"
    documents = {
        kind: [f"{line} {kind} {i}. It was good. They said so." for i in range(60)] for kind in nano_chat.TEXT_SHARES
    }
    return Corpus(train=documents, dev=documents, held_out={}, held_out_terms=["homeostasis"])


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return wrap(train_tokenizer(corpus), 2048)


def test_equal_and_containing_texts_are_dropped():
    docs = [
        "Buy $ACME now! https://t.co/x",
        "Kept.",
        "kept",
        "One line.\nThe clade of new world monkeys, again.\nLast.",
    ]
    kept = without(docs, {key("buy acme NOW [URL]")}, ["clade of new world monkeys"])
    assert kept == ["Kept.", "One line.\nLast."]
    assert without(["It is a clade of new\nworld monkeys."], set(), ["clade of new world monkeys"]) == []


def test_tweets_are_normalized_as_the_task_shows_them():
    assert normalize_tweet("@a_1 see\n https://t.co/x  me@x") == "@USER see [URL] me@x"


def test_textbooks_lose_glossaries_and_questions():
    text = (
        "By the end of this section\nProse.\n### Glossary\n\nterm\n: its definition\n^\n### Review Questions\nWhich?\n"
    )
    text += 'By the end of this section\nMore [prose][1] (see [](#fig-1)b).\n[1]: https://x.org\nclass="summary"'
    assert list(clean_textbook(text)) == [
        "By the end of this section\nProse.",
        "By the end of this section\nMore prose.",
    ]


def test_prose_loses_small_print():
    assert list(clean_prose("You may copy this ETEXT freely.\nIt was _night_.\n\nDay.")) == ["It was night.", "Day."]


@pytest.mark.parametrize("task", [*nano_chat.TEXT_TASKS, *nano_chat.LOOKUP_TASKS], ids=lambda task: task.__name__)
def test_each_task_makes_samples(corpus, task):
    texts, rng = nano_chat.Texts(corpus.train, corpus.held_out_terms), random.Random(0)
    made = [sample for _ in range(200) if (sample := task(rng, texts, 1000))]
    assert made or task is nano_chat.define  # the corpus of these tests defines nothing
    for sample in made:
        assert all(question and answer for question, answer in sample.turns)


def test_look_ups_answer_from_the_text_or_say_not_stated(corpus):
    texts, rng = nano_chat.Texts(corpus.train), random.Random(1)
    for _ in range(300):
        sample = nano_chat.pairs(rng, texts, 800)
        shown = sample.turns[0][0]
        for question, answer in sample.turns:
            if re.search("What is|value of", question) and answer != nano_chat.NOT_STATED:
                assert re.sub(r".*<\|evidence_end\|>", "", answer) in shown


def test_definitions_of_held_out_terms_are_not_asked():
    documents = {kind: ["Homeostasis is the steady state of the body."] for kind in nano_chat.TEXT_SHARES}
    texts = nano_chat.Texts(documents, ["homeostasis"])
    assert nano_chat.define(random.Random(0), texts, 500) is None
    assert nano_chat.define(random.Random(0), nano_chat.Texts(documents), 500) is not None


def test_packed_rows_hold_whole_samples(corpus, tokenizer):
    texts = nano_chat.Texts(corpus.train)
    endless = nano_chat.samples(random.Random(0), texts, 600, nano_chat.TEXT_TASKS | nano_chat.LOOKUP_TASKS)
    encoded = nano_chat.encode_samples(tokenizer.backend_tokenizer, [next(endless) for _ in range(100)])
    fitting = [sample for sample in encoded if len(sample[0]) <= 513]
    tokens, roles = nano_chat.pack(encoded, 513)
    assert (roles != nano_chat.PADDING).sum() == sum(len(ids) for ids, _ in fitting)
    assert (roles == nano_chat.ANSWER).sum() == sum(r == nano_chat.ANSWER for _, rs in fitting for r in rs)
    assert tokens.shape == roles.shape


def test_digits_are_single_tokens_and_placeholders_whole(tokenizer):
    assert tokenizer.tokenize("12,345.6")[:2] == ["1", "2"]
    assert not [token for token in tokenizer.get_vocab() if re.search(r"\d.*\d", token) and not token.startswith("<|")]
    assert " [URL]" in tokenizer.tokenize("see [URL]")
    assert tokenizer.pad_token != tokenizer.eos_token


def test_the_template_renders_what_training_rendered(tokenizer):
    sample = nano_chat.Sample("any", [("a?\n\nb", "one two"), ("c 3", "d")], "Be brief.")
    messages = [{"role": "system", "content": sample.system}]
    for question, answer in sample.turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole == "".join(text for text, _ in nano_chat.render(sample))
    assert whole.startswith(tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True))
    assert tokenizer.decode(tokenizer(whole)["input_ids"]) == whole
    masked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    answers = [i for i, said in zip(masked["input_ids"], masked["assistant_masks"]) if said]
    assert tokenizer.decode(answers) == "one two<|im_end|>d<|im_end|>"


def test_documents_end_with_the_padding_token(tokenizer):
    assert encode(tokenizer.backend_tokenizer, ["a", "b"]).tolist().count(tokenizer.pad_token_id) == 2


def test_the_learning_rate_reaches_zero_in_time():
    assert rate_at(0) < 0.1
    assert rate_at(0.3) == 1
    assert rate_at(1) == 0


def test_parameters_stay_below_eight_million():
    from transformers import Qwen3ForCausalLM

    assert Qwen3ForCausalLM(configuration()).num_parameters() < 8_000_000


@needs_model
def test_the_model_fits_and_loads_offline():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert (MODEL / "model.safetensors").stat().st_size < 16_000_000
    model, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    assert model.config.max_position_embeddings >= 2048
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert len(tokenizer) == model.config.vocab_size


@needs_model
def test_the_model_answers_and_stops():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    question = "Anna: 14\nBen: 27\nClara: 31\nWhat is Ben?"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "27<|im_end|>"


@needs_data
@needs_model
def test_the_card_names_the_rows_that_are_held_out():
    card = (MODEL / "README.md").read_text()
    for name, digest in read_splits(DATA).digests().items():
        assert digest in card, name


@needs_data
def test_no_held_out_text_survives_the_filter():
    """On the real rows: what is kept of each set's training part shares no text with its held-out part."""
    splits = read_splits(DATA)
    tweets = [[normalize_tweet(row["tweet"]) for row in rows] for rows in splits.tweets]
    answers = [[row["answer"] for row in rows] for rows in splits.medquad]
    for train, held_out in (tweets, answers):
        names = {key(text) for text in held_out}
        assert names & {key(text) for text in train}  # the filter has something to do
        assert not names & {key(text) for text in without(train, names, [])}


@needs_model
def test_the_training_log_lies_beside_the_model():
    log = json.loads((MODEL / "training.json").read_text())
    assert log["seconds"] <= 540
