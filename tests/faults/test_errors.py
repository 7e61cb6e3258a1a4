"""What the fuzzers found, each with the smallest input that showed it."""

import gzip
import io
import json
import random
import subprocess
import sys
import tarfile
import time

import pytest

from prism.bundle import _unpack
from prism.errors import DataError, ModelError, PrismError, ScoresError, SpecError
from prism.models import load
from prism.rows.answers import ANSWERS, LIKELIHOODS, read_likelihoods, read_predictions
from prism.rows.files import read_rows
from prism.rows.images import prepare, read_source
from prism.spec import Image, load_spec
from prism.store import read_json
from prism.store.sources import require_no_code
from prism.tasks import load_task
from tests.conftest import ROOT, SPEC, examples_of, write_rows, write_spec
from tests.scored import examples


def test_a_message_is_one_visible_line_of_bounded_length():
    error = str(PrismError("a\nb\x1b[2J\u202e\ud800\u2028c" + "x" * 100_000 + "; remedy"))
    assert error.startswith("a b\\x1b[2J\\u202e\\ud800 cxx")
    assert error.endswith("xx; remedy")
    assert len(error) < 2_100
    assert error.isprintable()
    assert str(PrismError("é, “ß” and 中")) == "é, “ß” and 中"


def test_long_words_of_a_spec_take_no_square_of_their_length(tmp_path):
    """A pattern that was tried from each of their characters took 40 s for 250,000."""
    text = SPEC.format(data="rows.jsonl", model="m").replace('"tiny"', f'"{"a" * 200_000}"')
    start = time.process_time()
    load_spec(write_spec(tmp_path, text))
    assert time.process_time() - start < 5, "milliseconds, in truth"


def test_quoted_keys_of_many_parts_are_refused(tmp_path):
    with pytest.raises(SpecError, match="nests tables too deeply"):
        load_spec(write_spec(tmp_path, '"a b".' * 40_000 + "c = 1"))


NESTED = {
    "table": {"uid": "t", "table": [["", "2019"], ["Sales", "5"]]},
    "paragraphs": [{"text": "Sales rose.", "order": 1}],
    "questions": [{"question": "Sales?", "answer": "5", "answer_type": "span", "scale": ""}],
}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"table": None}, "table"),
        ({"table": {"uid": "t"}}, "table.table"),
        ({"paragraphs": "text"}, "paragraphs"),
        ({"paragraphs": [{"text": 0.5, "order": 1}]}, "paragraphs.0.text"),
        ({"paragraphs": [{"text": "a", "order": 1}, {"text": "b", "order": "x"}]}, "paragraphs.1.order"),
        ({"questions": [0.5]}, "questions.0"),
        ({"questions": [{"answer": "5"}]}, "questions.0.question"),
    ],
)
def test_nested_rows_of_another_layout_are_named_by_their_row(tmp_path, change, place):
    text = SPEC.partition("[gate.tier1]")[0].replace("financial_sentiment", "finance_qa")
    text = text.replace('stratify = "sentiment"', 'group = "context"')
    data = write_rows(tmp_path / "rows.jsonl", [NESTED, NESTED | change])
    spec = load_spec(write_spec(tmp_path, text.format(data=data, model="m")))
    with pytest.raises(DataError, match=rf"row 2: {place}: .*; correct the row"):
        examples_of(spec, tmp_path)


def test_what_the_rows_hook_of_an_own_task_raises_is_named_by_its_line(tmp_path):
    (tmp_path / "benchmarks" / "specs" / "phase1").mkdir(parents=True)
    code = "from prism.tasks.financial_sentiment import *\ndef rows(row, spec):\n    return [row['cells'][0]]\n"
    (tmp_path / "benchmarks" / "specs" / "phase1" / "mine.py").write_text(code)
    data = write_rows(tmp_path / "rows.jsonl", [{"tweet": "a", "sentiment": 1}] * 9)
    text = SPEC.format(data=data, model="m").replace('"financial_sentiment"', '"./mine.py"')
    spec = load_spec(write_spec(tmp_path, text))
    assert load_task(spec).rows is not None
    with pytest.raises(DataError, match=r"row 1: \./mine\.py line 3: rows fails \(KeyError: 'cells'\)"):
        examples_of(spec, tmp_path)


def test_a_tiff_whose_second_picture_has_no_width_is_one_sentence(tmp_path):
    """Pillow raises a TypeError as it counts the pictures."""
    from PIL import Image as Pictures

    buffer, picture = io.BytesIO(), Pictures.new("RGB", (24, 16))
    picture.save(buffer, "TIFF", save_all=True, append_images=[picture])
    content = bytearray(buffer.getvalue())

    def number(at, size):
        return int.from_bytes(content[at : at + size], "little")

    first = number(4, 4)  # a directory: a count, entries of 12 bytes, the place of the next one
    second = number(first + 2 + 12 * number(first, 2), 4)
    [width] = [at for at in range(second + 2, second + 2 + 12 * number(second, 2), 12) if number(at, 2) == 256]
    content[width : width + 2] = (257).to_bytes(2, "little")
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"row 1: image 'a\.tif': cannot be read \(.*\); restore the file"):
        prepare(read_source("a.tif", tmp_path, "row 1"), Image(size=32), tmp_path / "made", "row 1")


def test_a_packed_file_that_is_damaged_behind_a_byte_of_no_text(tmp_path):
    content = gzip.compress(b'{"a": "\xff"}\n' + random.Random(1).randbytes(200_000), mtime=0)
    (tmp_path / "a.jsonl.gz").write_bytes(content[:100_000] + bytes(20_000) + content[120_000:])
    with pytest.raises(DataError, match="cannot be read|is not UTF-8"):
        read_rows(tmp_path / "a.jsonl.gz")


@pytest.mark.parametrize(
    "line", ["[1]", '{"id": "a"}', '{"id": 1, "answer": "", "tokens": 1, "finish": "stop"}', "{", ""]
)
def test_a_line_that_is_no_answer(tmp_path, line):
    for name, read in ((ANSWERS, read_predictions), (LIKELIHOODS, read_likelihoods)):
        (tmp_path / name).write_text(f"{line}\n")
        with pytest.raises(ModelError, match="delete the folder and run again"):
            read(tmp_path, examples(1))


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, {"tie_word_embeddings": False}]
)
def test_a_base_that_lacks_weights_is_refused(tiny, rows, tmp_path, change):
    import shutil

    folder = shutil.copytree(tiny, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    data = write_rows(tmp_path / "rows.jsonl", rows)
    spec = load_spec(write_spec(tmp_path, SPEC.format(data=data, model=folder)))
    with pytest.raises(ModelError, match=r"lacks \d+ of the weights that its config\.json asks for, such as "):
        load.load(spec, tmp_path)


@pytest.mark.parametrize("members", [[b'{"a":' * 100_000], [b'{"specs": []}'], [], None])
def test_a_file_that_is_no_bundle(tmp_path, members):
    path = tmp_path / "a.tar"
    if members is None:
        path.write_bytes(b"\xfd7zXZ\x00\x00\x04" + b"\0" * 40)
    else:
        write_tar(path, [("results.json", content) for content in members])
    with pytest.raises(ScoresError, match=r"a\.tar: is no bundle of answers"):
        _unpack(path, tmp_path / "out")


def test_a_bundle_that_unfolds_without_end_is_refused(tmp_path, monkeypatch):
    from prism import bundle

    monkeypatch.setattr(bundle, "LARGEST", 1_000)
    write_tar(tmp_path / "a.tar", [(f"{n}.jsonl", b"a" * 400) for n in range(9)])
    with pytest.raises(ScoresError, match="it holds over"):
        _unpack(tmp_path / "a.tar", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_the_command_is_called_by_its_module_and_pytest_in_any_folder():
    """pytest finds the options of PRISM from below the root, too."""
    module = [sys.executable, "-m"]
    said = subprocess.run([*module, "prism.cli", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("prism ")
    collected = subprocess.run(
        [*module, "pytest", "--prism-profile", "nano", "--collect-only", "-q", "-m", "phase1"],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=False,
    )
    assert collected.returncode == 0, collected.stdout + collected.stderr
    assert "test_thresholds[nano-tier1-accuracy-floor]" in collected.stdout


def test_half_a_surrogate_pair_is_in_no_file_that_is_read():
    assert read_json('["\\ud83d\\ude00"]') == ["\U0001f600"]
    with pytest.raises(ValueError, match="surrogates"):
        read_json('{"command": "\\ud800"}')


def test_a_configuration_nested_beyond_pythons_calls_is_searched_for_code():
    config = {"auto_map": {}}
    for _ in range(100_000):
        config = {"a": config}
    with pytest.raises(ModelError, match="needs remote code"):
        require_no_code(config, "config.json")


def test_a_chat_template_of_brackets_or_of_a_number_without_end_is_one_sentence(tiny, rows, tmp_path):
    import shutil

    folder = shutil.copytree(tiny, tmp_path / "base")
    data = write_rows(tmp_path / "rows.jsonl", rows)
    spec = load_spec(write_spec(tmp_path, SPEC.format(data=data, model=folder)))
    for text in ("{{ " + "(" * 2_000, "{% if 1e999 %}{{ 1e999 }}{% endif %}{{ [1e999] }}"):
        (folder / "chat_template.jinja").write_text(text)
        with pytest.raises(ModelError, match="the chat template cannot write a question and its answer"):
            load.load(spec, tmp_path)
