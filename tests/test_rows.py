"""Rows as the world has them: other encodings and separators are read, what is no text is refused with its row."""

from datetime import date

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from prism.cli import app
from prism.errors import DataError
from prism.plugin.scheduling import lacking
from prism.rows.files import line_of, read_rows
from prism.rows.parts import is_hub_id, only_part
from prism.rows.splits import split_places, split_rows
from prism.rows.values import matcher
from prism.spec import load_spec
from tests.conftest import SPEC, examples_of, write_rows, write_spec

TWEETS = [{"tweet": f"Acme note {n}", "sentiment": "012"[n % 3]} for n in range(60)]


def spec_for(folder, data, old="", new="", task="financial_sentiment"):
    text = SPEC.format(data=data, model="fixtures/models/nano-text").replace("financial_sentiment", task)
    if task != "financial_sentiment":
        text = text.replace(', stratify = "sentiment"', "").partition("[gate.tier1]")[0]
    assert old in text
    return load_spec(write_spec(folder, text.replace(old, new)))


def cards(answer, at=3):
    rows = [{"question": f"What is term {n}?", "answer": f"It is meaning {n}."} for n in range(40)]
    rows[at]["answer"] = answer
    return rows


LINES = "tweet,sentiment\n" + "".join(f"{row['tweet']},{row['sentiment']}\n" for row in TWEETS)
READABLE = {
    "semicolons": LINES.replace(",", ";").encode(),
    "tabs": LINES.replace(",", "\t").encode(),
    "carriage returns alone": LINES.replace("\n", "\r").encode(),
    "UTF-16": LINES.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + LINES.encode("utf-16-be"),
    "byte-order mark": LINES.encode("utf-8-sig"),
    "spaces after the separators": LINES.replace(",", ", ").encode(),
    "separator at the end of rows": LINES.replace("\n", ",\n").replace("sentiment,", "sentiment").encode(),
    "blank lines before the header": b"\n \r\n" + LINES.encode(),
    "quoted commas in the header's rows": LINES.replace("Acme note", '"Acme note')
    .replace(",0", '",0')
    .replace(",1", '",1')
    .replace(",2", '",2')
    .encode(),
}


@pytest.mark.parametrize("content", READABLE.values(), ids=READABLE)
def test_every_way_of_writing_a_csv_gives_the_same_rows(tmp_path, content):
    (tmp_path / "rows.csv").write_bytes(content)
    assert read_rows(tmp_path / "rows.csv") == TWEETS


TEXTS = {
    "escaped quotation marks": ('"he said \\"buy\\", twice",1', 'he said "buy", twice'),
    "doubled quotation marks and a backslash": ('"C:\\temp ""x""",1', 'C:\\temp "x"'),
    "quoted new line": ('"line one\nline two",1', "line one\nline two"),
    "longer than csv's limit": ("a" * 200_000 + ",1", "a" * 200_000),
    "comma in a file of semicolons": ("1,5 up;1", "1,5 up"),
}


@pytest.mark.parametrize(("line", "text"), TEXTS.values(), ids=TEXTS)
def test_text_of_a_csv_is_read_as_it_was_meant(tmp_path, line, text):
    separator = ";" if ";" in line else ","
    (tmp_path / "rows.csv").write_text(f"tweet{separator}sentiment\n{line}\nafter{separator}2\n")
    assert read_rows(tmp_path / "rows.csv") == [{"tweet": text, "sentiment": "1"}, {"tweet": "after", "sentiment": "2"}]


PLACES = {
    "Windows-1252, far into the file": (
        b"tweet,sentiment\n" + b"Acme up,1\n" * 2_000 + b"Caf\xe9 up,1\n",
        "rows.csv:2002: byte 20,019 (0xe9) is not UTF-8; save the file as UTF-8",
    ),
    "quotation mark that is closed too early": (
        b'tweet,sentiment\nup,1\n"one\ntwo "three" four",1\nup,1\n',
        "rows.csv:3: ',' expected after '\"'; look for an unclosed quotation mark",
    ),
    "quotation mark that is never closed": (
        b'tweet,sentiment\nup,1\n"one,1\nup,1\nup,1\n',
        "rows.csv:3: unexpected end of data; look for an unclosed quotation mark",
    ),
    "two columns of one name": (
        b"\ntweet, tweet,sentiment,,\nup,down,1,,\n",
        'rows.csv:2: several columns are called "tweet"; rename one',
    ),
    "quotation mark that is never closed, after a blank line": (
        b'\ntweet,sentiment\nup,1\n"one,1\nup,1\nup,1\n',
        "rows.csv:4: unexpected end of data; look for an unclosed quotation mark",
    ),
    "value too many, in a file of semicolons": (
        b"tweet;sentiment\nup;1\nup;1;x\n",
        "rows.csv:3: has more values than the header; quote values that contain semicolons",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), PLACES.values(), ids=PLACES)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, content, sentence):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_rows(tmp_path / "rows.csv")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("text;label (pos,neg)", ["text", "label (pos,neg)"]),
        ('"a,b"\tkind; or class', ["a,b", "kind; or class"]),
        ("text,label;", ["text", "label;"]),
        ("text,,", ["text", ""]),
    ],
)
def test_the_first_separator_of_the_header_separates(tmp_path, header, names):
    separator = "\t" if "\t" in header else ";" if header[4] == ";" else ","
    (tmp_path / "rows.csv").write_text(f"{header}\nup{separator}1\n")
    assert list(read_rows(tmp_path / "rows.csv")[0]) == names


def test_json_nested_too_deep_is_one_sentence(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: is nested too deep"):
        read_rows(tmp_path / "rows.jsonl")


NO_TEXTS = {
    "NaN": (float("nan"), 'column "answer" is NaN, not text; fill it, or leave such rows out by [data].without'),
    "nothing": ("", 'column "answer" is blank, not text'),
    "white space": (" \n\t", 'column "answer" is blank, not text'),
    "a dictionary": ({"text": ["x"]}, "column \"answer\" is a dictionary ({'text': ['x']}), not text; write the text"),
    "a list": (["x"], "column \"answer\" is a list (['x']), not text"),
    "a boolean": (True, 'column "answer" is a boolean (true), not text'),
    "null": (None, 'no value in column "answer"'),
}


@pytest.mark.parametrize(("answer", "sentence"), NO_TEXTS.values(), ids=NO_TEXTS)
def test_what_is_no_text_is_refused_with_its_row(tmp_path, answer, sentence):
    data = write_rows(tmp_path / "rows.jsonl", cards(answer))
    with pytest.raises(DataError) as error:
        examples_of(spec_for(tmp_path, data, task="medical_chat"), tmp_path)
    assert f"rows.jsonl, row 4 (line 4): {sentence}" in str(error.value)


def test_parquet_has_rows_and_no_lines(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(cards(" ")), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r'rows\.parquet, row 4: column "answer" is blank'):
        examples_of(spec_for(tmp_path, tmp_path / "rows.parquet", task="medical_chat"), tmp_path)


def test_the_line_of_a_row_counts_quoted_and_blank_lines(tmp_path):
    (tmp_path / "rows.csv").write_text('tweet,sentiment\n"a\nb",1\n\nc,1\n')
    (tmp_path / "rows.jsonl").write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert [line_of(tmp_path / "rows.csv", number) for number in (1, 2)] == [2, 5]
    assert [line_of(tmp_path / "rows.jsonl", number) for number in (1, 2)] == [2, 4]


@pytest.mark.parametrize("answer", ["", None, float("nan")])
def test_rows_without_a_value_can_be_left_out(tmp_path, answer):
    data = write_rows(tmp_path / "rows.jsonl", cards(answer))
    spec = spec_for(tmp_path, data, "train_rows = 96", 'without = { answer = [""] }', "medical_chat")
    training, held_out = examples_of(spec, tmp_path)
    assert len(training) + len(held_out) == 39


@pytest.mark.parametrize("row", [{"question": "q", "body": None}, {"question": "q"}])
def test_rows_without_a_value_in_a_mapped_column_can_be_left_out(tmp_path, row):
    rows = [{"question": card["question"], "body": card["answer"]} for card in cards("It is this.")]
    data = write_rows(tmp_path / "rows.jsonl", [*rows, row])
    options = 'columns = { answer = "body" }\n'
    spec = spec_for(tmp_path, data, "train_rows = 96", options + 'without = { answer = [""] }', "medical_chat")
    training, held_out = examples_of(spec, tmp_path)
    assert len(training) + len(held_out) == 40
    spec = spec_for(tmp_path, data, "train_rows = 96", options, "medical_chat")
    with pytest.raises(DataError, match=r'rows\.jsonl, row 41 \(line 41\): no value in column "body"'):
        examples_of(spec, tmp_path)


def test_a_blank_in_a_row_that_is_not_used_stops_nothing(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", cards(""))
    used = spec_for(tmp_path, data, "train_rows = 96", "train_rows = 2", "medical_chat")
    assert len(examples_of(used, tmp_path)[0]) == 2


def test_nan_in_a_column_that_the_task_does_not_need_is_null(tmp_path):
    rows = [{**row, "term": float("nan")} for row in cards("It is meaning 3.")]
    training, _ = examples_of(spec_for(tmp_path, write_rows(tmp_path / "r.jsonl", rows), task="medical_chat"), tmp_path)
    assert len({example.group for example in training}) == len(training)


def test_a_filter_compares_values_whatever_type_the_file_gave_them(tmp_path):
    rows = [{**row, "year": 2022 + n % 2} for n, row in enumerate(TWEETS)]
    write_rows(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.csv").write_text(
        "tweet,sentiment,year\n" + "".join(",".join(map(str, r.values())) + "\n" for r in rows)
    )
    floats = [{**row, "year": float(row["year"])} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(floats), tmp_path / "c.parquet")
    for file in ("a.jsonl", "b.csv", "c.parquet"):
        for values in ("[2022]", '["2022"]', "[2022.0]"):
            spec = spec_for(tmp_path, tmp_path / file, "train_rows = 96", f"without = {{ year = {values} }}")
            training, held_out = examples_of(spec, tmp_path)
            kept = {e.question.rpartition(" ")[2] for e in training + held_out}
            assert kept == {str(n) for n in range(60) if n % 2}, (file, values)


DAY = date(2024, 1, 2)
SAME = {  # values of the filter, values of rows that match, values that do not
    "texts are compared as they are": (["007"], ["007"], ["7", "0070"]),
    "a number and its texts": ([7], ["7", "7.0", "007", 7, 7.0], ["8", "seven", "²"]),
    "true": ([True], ["true", "True", True], ["1", 1]),
    "a day": ([DAY], ["2024-01-02", DAY], ["2024-01-03"]),
    "a share": ([0.5], ["0.5", 0.5, "0.50", ".5"], [0.25]),
    "a number of many digits": ([12345678901234567890], ["12345678901234567890"], ["12345678901234567891"]),
    "nothing": ([""], ["", " ", None, float("nan")], ["x", 0]),
}


@pytest.mark.parametrize(("values", "same", "others"), SAME.values(), ids=SAME)
def test_one_value_in_several_types(values, same, others):
    matches = matcher(values)
    assert [value for value in same if not matches(value)] == []
    assert [value for value in others if matches(value)] == []


def test_spellings_of_a_label_are_one_label_and_one_stratum(tmp_path):
    words = ["neutral", "bullish", "bearish"]
    rows = [{"tweet": f"note {n}", "sentiment": words[n % 3]} for n in range(60)]
    for place, spelling in ((1, "BULLISH"), (2, " Bearish"), (4, "bullish ")):
        rows[place]["sentiment"] = spelling
    training, held_out = examples_of(spec_for(tmp_path, write_rows(tmp_path / "r.jsonl", rows)), tmp_path)
    assert {example.reference for example in training + held_out} == set(words)
    assert sorted(sum(e.reference == word for e in held_out) for word in words) == [5, 5, 5]


def test_strata_that_are_not_merged_are_split_as_before():
    rows = [{"tweet": f"note {n}", "sentiment": ["Zulu", "alpha", "Mike"][n % 3]} for n in range(60)]
    from sklearn.model_selection import train_test_split

    names = [row["sentiment"] for row in rows]
    plain = train_test_split(range(60), test_size=0.25, random_state=42, stratify=names)
    assert list(split_places(rows, {"test_size": 0.25, "stratify": "sentiment"}, 42)) == plain


@pytest.mark.parametrize("kind", [float, "{}.0".format])
def test_labels_with_a_decimal_point_are_labels(tmp_path, kind):
    rows = [{**row, "sentiment": kind(int(row["sentiment"]))} for row in TWEETS]
    training, held_out = examples_of(spec_for(tmp_path, write_rows(tmp_path / "rows.jsonl", rows)), tmp_path)
    assert {e.reference for e in training + held_out} == {"neutral", "bullish", "bearish"}


@pytest.mark.parametrize("label", ["²", True, 1.5, "3", "positive", ""])
@pytest.mark.parametrize("split", ["", 'train = "train", test = "test"'])
def test_an_unknown_label_is_named_with_its_row_and_the_known_ones(tmp_path, label, split):
    rows = [dict(row) for row in TWEETS]
    rows[7]["sentiment"] = label
    write_rows(tmp_path / "rows" / "train.jsonl", rows)
    write_rows(tmp_path / "rows" / "test.jsonl", TWEETS)
    old = 'test_size = 0.25, stratify = "sentiment"'
    with pytest.raises(DataError) as error:
        examples_of(spec_for(tmp_path, tmp_path / "rows", old, split or old), tmp_path)
    assert f"rows/train.jsonl, row 8 (line 8): sentiment {label!r}: not one of 0, 1, 2 or neutral" in str(error.value)


def test_a_class_of_one_row_is_named():
    rows = [{"sentiment": n % 2} for n in range(20)] + [{"sentiment": "bearish"}]
    with pytest.raises(DataError, match=r'stratify = "sentiment": only one of 21 rows is "bearish", which cannot be'):
        split_rows(rows, {"test_size": 0.25, "stratify": "sentiment"}, 42)


def test_columns_are_named_by_the_ones_at_hand(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", [{"Tweet": "up", "sentiment": 1}])
    with pytest.raises(DataError, match=r'set \[data\]\.columns = \{ tweet = "Tweet" \}'):
        examples_of(spec_for(tmp_path, data), tmp_path)
    wide = write_rows(tmp_path / "wide.jsonl", [{"tweet": "up"} | {f"c{n}": n for n in range(400)}])
    with pytest.raises(DataError, match=r"'c6' and 393 more; name yours in \[data\]\.columns"):
        examples_of(spec_for(tmp_path, wide), tmp_path)


def test_a_mistyped_path_names_the_nearest_and_never_asks_the_hub(tmp_path):
    write_rows(tmp_path / "data" / "headlines.jsonl", TWEETS)
    for path, nearest in (
        ("data/headlnes.jsonl", "headlines.jsonl"),
        ("dta/headlines.jsonl", "data"),
        ("data/headlines", "headlines.jsonl"),
        ("data/sets/headlines", None),
    ):
        assert not is_hub_id(path, tmp_path)
        with pytest.raises(DataError, match="no such file") as error:
            examples_of(spec_for(tmp_path / "specs", path), tmp_path)
        assert nearest is None or f'"{nearest}")' in str(error.value)
    assert is_hub_id("somebody/tweets", tmp_path)


def test_a_mistyped_path_is_local_for_everything_that_asks(tmp_path):
    for old, new in (("train_rows = 96", 'name = "headlines"'), ("train_rows = 96", "")):
        spec = spec_for(tmp_path, "dta/headlines.jsonl", old, new)
        assert only_part(spec, tmp_path, None) == "train"
        assert lacking(spec, tmp_path, None) == ""
        listed = CliRunner().invoke(app, ["specs", "--root", str(tmp_path)])
        assert "there is no dta/headlines.jsonl" in listed.output


def test_lists_of_answers_are_read_where_a_task_takes_them(tmp_path):
    report = {"report": "| | 2019 |\n|---|---|\n| sales | 412 |", "question": "What were sales?"}
    rows = [{**report, "question": f"What were sales {n}?", "answer": ["412", ""]} for n in range(8)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    training, _ = examples_of(spec_for(tmp_path, data, task="finance_qa"), tmp_path)
    assert training[0].facts["answer"][0] == "412"
    rows[2]["answer"] = [{"text": "412"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r'row 3 \(line 3\): column "answer" is a list with a dictionary'):
        examples_of(spec_for(tmp_path, data, task="finance_qa"), tmp_path)
