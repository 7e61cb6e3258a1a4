"""`prism init` and `prism schema`: what is written, what is inferred of rows, model and adapter, and what is refused."""

import json
import re
import tomllib

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from prism.cli import app, inferring
from prism.errors import DataError
from prism.rows.files import read_rows
from prism.spec import Spec, find_specs, load_spec
from tests.conftest import ROOT, examples_of, write_rows
from tests.test_workflows import require_safe_steps

SAID = ["I want my money back", "nobody answers the phone", "thank you, lovely"]
LABELS = ["refund", "complaint", "praise"]


def init(folder, *options):
    done = CliRunner().invoke(app, ["init", str(folder), *map(str, options)])
    return done.exit_code, " ".join(done.output.split())


def written(folder, name):
    (path,) = folder.glob(f"benchmarks/specs/*/{name}.toml")
    return load_spec(path)


def tickets(folder, name="tickets.csv", **columns):
    """60 rows: a text, its label, and columns that are functions of the row's number."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "ticket_text": f"{n}: {SAID[n % 3]}",
            "queue": LABELS[n % 3],
            **{key: column(n) for key, column in columns.items()},
        }
        for n in range(60)
    ]
    lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PRISM_HOME", str(tmp_path_factory.mktemp("home")))


def pictured(folder, name="scans.jsonl", **columns):
    """40 rows about ten pictures of one grey each: columns that are functions of the row's number."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for n in range(10):
        Image.new("L", (40, 30), 20 * n).save(folder / "images" / f"{n}.png")
    return write_rows(folder / name, [{key: column(n) for key, column in columns.items()} for n in range(40)])


def path_of(n):
    return f"images/{n % 10}.png"


@pytest.fixture
def adapter(tiny, tmp_path):
    """A folder as PEFT writes it, but for weights that nothing reads here."""
    folder = tmp_path / "project" / "my-adapter"
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tiny), "r": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").touch()
    return folder


# What is written


def test_without_options_a_project_gets_all_that_it_needs(tmp_path):
    code, said = init(tmp_path)
    assert code == 0
    spec = written(tmp_path, "smollm2-135m-instruct")
    assert (spec.task, spec.classify.labels) == ("classify", ["complaint", "praise", "refund"])
    assert (tmp_path / spec.data.path).is_file()
    assert spec.lora
    assert spec.sft["gradient_accumulation_steps"] == 1
    for name in ("pytest.ini", ".github/workflows/prism.yml", "reports/.gitignore", "benchmarks/specs/schema.json"):
        assert f"written: {name}" in said
    assert "pytestmark = pytest.mark.messages" in (tmp_path / "benchmarks" / "test_messages_thresholds.py").read_text()
    assert said.endswith("pytest benchmarks -m messages")


def test_the_workflow_runs_the_gate_and_may_only_read(tmp_path):
    init(tmp_path)
    workflow = yaml.safe_load((tmp_path / ".github" / "workflows" / "prism.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    steps = workflow["jobs"]["gate"]["steps"]
    require_safe_steps(steps)
    scripts = [step["run"] for step in steps if "run" in step]
    assert scripts[-1] == "pytest benchmarks"
    assert re.search(r"pytest-prism==[\d.]+.* pytest-github-actions-annotate-failures", scripts[0])


def test_nothing_is_overwritten(tmp_path, tiny):
    tickets(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -q\n")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "test_tickets_thresholds.py").write_text("# mine\n")
    code, said = init(tmp_path, "--model", tiny, "--data", tmp_path / "tickets.csv")
    assert code == 0
    assert "kept as it was: benchmarks/test_tickets_thresholds.py" in said
    assert "add to addopts in pytest.ini: -p no:deepeval" in said
    assert (tmp_path / "benchmarks" / "test_tickets_thresholds.py").read_text() == "# mine\n"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, said = init(tmp_path, "--model", tiny, "--data", tmp_path / "tickets.csv")
    assert code == 2
    assert "exists, and init overwrites nothing; edit that spec, or delete it" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_second_spec_shares_the_files_of_the_first(tmp_path, tiny):
    assert init(tmp_path, "--model", tiny)[0] == 0
    code, said = init(tmp_path, "--model", tiny, "--data", tickets(tmp_path))
    assert code == 0
    assert "kept as it was: .github/workflows/prism.yml" in said
    assert [path.parent.name for path in find_specs(tmp_path / "benchmarks" / "specs")] == ["messages", "tickets"]


def test_a_conftest_is_written_where_prism_is_not_installed(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("prism.cli.starting.entry_points", lambda group: found)
    init(tmp_path / "bare")
    assert (tmp_path / "bare" / "conftest.py").read_text() == 'pytest_plugins = ["prism.plugin.hooks"]\n'
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "conftest.py").write_text("# mine\n")
    assert "add to conftest.py: pytest_plugins" in init(tmp_path / "own")[1]

    class Entry:
        value = "pytest_prism"

    found.append(Entry)
    init(tmp_path / "installed")
    assert not (tmp_path / "installed" / "conftest.py").exists()


# What is inferred


def test_an_adapter_and_a_csv_give_the_whole_spec(tmp_path, adapter, tiny):
    project = tmp_path / "project"
    data = tickets(project)
    code, said = init(project, "--adapter", adapter, "--data", data)
    assert code == 0, said
    spec = written(project, "my-adapter")
    assert (spec.adapter, spec.data.path, spec.model.model_name) == ("my-adapter", "tickets.csv", str(tiny))
    assert (spec.task, spec.classify.column, spec.classify.labels) == ("classify", "queue", sorted(LABELS))
    assert spec.classify.prompt.endswith("{ticket_text}")
    assert spec.data.split is None, "nobody says which rows the adapter was trained on"
    assert not spec.lora
    assert spec.generate["max_new_tokens"] % 8 == 0
    assert spec.model.max_seq_length % 64 == 0
    for reason in (
        "by adapter_config.json: r = 4",
        '"ticket_text", by its name',
        '"queue", by its few values',
        "complaint (20), praise (20), refund (20)",
        "all rows held out: nobody says",
        f"by the tokenizer of {tiny.name}",
        "the adapter must be asked as it was trained: see --prompt",
    ):
        assert reason in said, reason


def test_the_window_holds_the_longest_question_and_its_answer(tmp_path, tiny):
    long = tickets(tmp_path / "long", ticket_text=lambda n: f"{n} " + "word " * (200 if n == 7 else 1))
    short = tickets(tmp_path / "short")
    for data in (long, short):
        assert init(data.parent, "--model", tiny, "--data", data)[0] == 0
    windows = [written(data.parent, tiny.name).model.max_seq_length for data in (long, short)]
    assert windows[0] == 512, "what the model takes at most"
    assert windows[0] > windows[1]


@pytest.mark.parametrize(
    ("columns", "split"),
    [
        ({}, {"test_size": 0.2, "stratify": "queue"}),
        ({"customer_id": lambda n: f"c{n // 4}"}, {"test_size": 0.2, "group": "customer_id"}),
        ({"customer_id": lambda n: f"c{n}"}, {"test_size": 0.2, "stratify": "queue"}),
    ],
    ids=["labels", "customers with several rows", "customers with one row each"],
)
def test_the_split_keeps_dependent_rows_together(tmp_path, tiny, columns, split):
    init(tmp_path, "--model", tiny, "--data", tickets(tmp_path, **columns))
    assert written(tmp_path, tiny.name).data.split.model_dump(exclude_none=True) == split


def test_a_folder_of_parts_is_split_as_it_is(tmp_path, tiny, adapter):
    for part in ("train", "test"):
        tickets(tmp_path / "project" / "rows", f"{part}.csv")
    for options, split in (
        (["--model", tiny], {"train": "train", "test": "test"}),
        (["--adapter", adapter], {"test": "test"}),
    ):
        code, said = init(tmp_path / "project", *options, "--data", tmp_path / "project" / "rows")
        assert code == 0, said
        name = tiny.name if "--model" in options else "my-adapter"
        assert written(tmp_path / "project", name).data.split.model_dump(exclude_none=True) == split


def test_answers_in_words_come_after_their_context(tmp_path, tiny):
    rows = [
        {"context": f"Desk {n} has {n + 3} chairs.", "question": f"How many at {n}?", "answer": f"{n + 3} of them"}
        for n in range(50)
    ]
    rows.append({"context": "Desk", "question": "How many?", "answer": ""})
    write_rows(tmp_path / "qa.jsonl", rows)
    code, said = init(tmp_path, "--model", tiny, "--data", tmp_path / "qa.jsonl")
    assert code == 0, said
    spec = written(tmp_path, tiny.name)
    assert (spec.task, spec.answer.prompt, spec.answer.column) == ("answer", "{context}\n\n{question}", "answer")
    assert spec.data.without == {"answer": [""]}
    assert "1 row without a value in answer" in said
    assert {limit.metric for limit in spec.limits()} == {"f1", "content_gain"}


def test_a_task_of_prism_gets_its_own_columns(tmp_path, tiny):
    rows = [
        {"headline": f"Shares {('rise', 'fall')[n % 2]} {n}", "mood": ("bullish", "bearish")[n % 2]} for n in range(40)
    ]
    write_rows(tmp_path / "news.jsonl", rows)
    options = ["--model", tiny, "--data", tmp_path / "news.jsonl", "--task", "financial_sentiment", "--answer", "mood"]
    code, said = init(tmp_path, *options)
    assert code == 0, said
    assert written(tmp_path, tiny.name).data.columns == {"tweet": "headline", "sentiment": "mood"}


def test_spellings_of_a_label_are_one_label():
    rows = [{"text": f"{n}", "label": ("Yes ", "yes", "no", "Yes")[n % 4]} for n in range(40)]
    told = []
    columns = inferring.infer_columns(rows, told, question=None, answer=None, closed=None)
    assert columns.labels == ("Yes", "no")
    assert ("labels", 'the values of "label": Yes (30), no (10)') in told


def test_what_the_owner_says_is_taken(tmp_path, tiny):
    data = tickets(tmp_path, summary=lambda n: f"summary {n}")
    options = ["--question", "summary", "--answer", "queue", "--prompt", "Which desk?\\n{summary}"]
    assert init(tmp_path, "--model", tiny, "--data", data, *options)[0] == 0
    spec = written(tmp_path, tiny.name)
    assert (spec.classify.prompt, spec.classify.column) == ("Which desk?\n{summary}", "queue")


# Pictures


def test_questions_about_pictures_give_the_whole_spec(tmp_path, tiny_vision):
    data = pictured(
        tmp_path,
        scan=path_of,
        question=lambda n: f"Is part {n // 10} white?",
        finding=lambda n: ("yes", "no", "no", "")[n % 4],
        ward=lambda n: f"ward {n}",
    )
    code, said = init(tmp_path, "--model", tiny_vision, "--data", data, "--answer", "finding")
    assert code == 0, said
    spec = written(tmp_path, tiny_vision.name)
    assert spec.task == "medical_vqa"
    assert spec.data.columns == {"image": "scan", "answer": "finding"}
    assert spec.data.without == {"answer": [""]}
    assert spec.data.split.group == "image"
    assert (spec.image.size, spec.image.background) == (32, "black")
    assert spec.lora["placement"] == ["language", "projector"]
    assert {limit.metric for limit in spec.limits()} == {"closed_accuracy", "visual_gain"}
    training, held_out = examples_of(spec, tmp_path, pictures=tmp_path / "prepared")
    assert len(training) + len(held_out) == 30
    assert not {one.group for one in training} & {one.group for one in held_out}, "a picture lies on one side"
    for reason in (
        '"scan" holds pictures, asked about in words',
        "size = 32, the size of its vision tower",
        "with its picture (12)",  # 32 × 32 pixels in patches of 16, and what stands around it
        "10 rows without a value in finding",
    ):
        assert reason in said, reason


@pytest.mark.parametrize(
    "columns",
    [
        {"query": lambda n: f"What is bar {n}?", "label": lambda n: [f"{n}.5"]},
        {"question": lambda n: f"What is bar {n}?", "answers": lambda n: [f"{n} %", f"{n}"]},
        {"prompt": lambda n: f"What is bar {n}?", "target": lambda n: n, "comment": lambda n: "seen"},
    ],
    ids=["ChartQA's", "DocVQA's", "others"],
)
def test_figures_read_off_pictures_are_finance_vqas(tmp_path, tiny_vision, columns):
    data = pictured(tmp_path, chart=path_of, **columns)
    code, said = init(tmp_path, "--model", tiny_vision, "--data", data)
    assert code == 0, said
    spec = written(tmp_path, tiny_vision.name)
    assert (spec.task, spec.image.background) == ("finance_vqa", "white")
    training, held_out = examples_of(spec, tmp_path, pictures=tmp_path / "prepared")
    assert len(training) + len(held_out) == 40
    assert all(one.question.startswith("What is bar") for one in held_out)
    assert {limit.metric for limit in spec.limits()} == {"relaxed_accuracy", "visual_gain"}
    assert "holds pictures, and" in said
    assert "answers are figures" in said


def test_the_fields_of_receipts_are_the_questions(tmp_path, tiny_vision):
    data = pictured(tmp_path, image=path_of, company=lambda n: f"Shop {n}", total=lambda n: f"{n}.00")
    code, said = init(tmp_path, "--model", tiny_vision, "--data", data)
    assert code == 0, said
    spec = written(tmp_path, tiny_vision.name)
    assert spec.task == "finance_vqa"
    _, held_out = examples_of(spec, tmp_path, pictures=tmp_path / "prepared")
    assert {one.question for one in held_out} == {"Which company issued the receipt?", "What is the total?"}
    assert "one for each field of a receipt: company, total" in said


def test_an_adapter_of_a_model_that_is_not_here_looks_at_pictures_of_any_size(tmp_path, adapter):
    project = tmp_path / "project"
    data = pictured(project, image=path_of, question=lambda n: f"Which organ {n}?", answer=lambda n: f"organ {n % 7}")
    code, said = init(project, "--adapter", adapter, "--model", "owner/sees", "--data", data)
    assert code == 0, said
    spec = written(project, "my-adapter")
    assert (spec.image.max_pixels, spec.data.split, spec.data.columns) == (200_704, None, {})
    assert "as the model is not here; if it takes one size, write size instead" in said
    assert {limit.metric for limit in spec.limits()} == {"open_exact_match"}


def test_patients_with_several_pictures_are_kept_together(tmp_path, tiny_vision):
    data = pictured(
        tmp_path,
        image=path_of,
        question=lambda n: f"Is it {n}?",
        answer=lambda n: "no",
        patient_id=lambda n: f"p{n % 10 // 2}",
    )
    assert init(tmp_path, "--model", tiny_vision, "--data", data)[0] == 0
    assert written(tmp_path, tiny_vision.name).data.split.group == "patient_id"


def test_pictures_that_lie_in_the_rows_are_found(tmp_path):
    from prism.cli.pictures import picture_column

    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"xray": {"bytes": b"..", "path": None}, "url": f"a/{n}.html"} for n in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert picture_column(read_rows(tmp_path / "rows.parquet"), None) == "xray"
    assert picture_column([{"a": "text.", "b": "1.5"}], None) is None


PICTURES_REFUSED = {
    "no model": (
        [],
        "its rows have pictures, and no vision-language model is named that could look at them; add --model",
    ),
    "two columns": (["--data", "two.jsonl"], "the columns image, before all hold pictures, and a task reads one"),
    "no such column": (["--image", "scan"], '--image "scan": is no column; the rows have'),
    "another column": (["--image", "answer"], '--image "answer": names no picture by its path (.png, .jpg, …)'),
    "a task of text": (["--image", "image", "--task", "answer"], "--image image: answer reads no pictures; delete"),
    "no pictures": (
        ["--data", "none.jsonl", "--task", "finance_vqa"],
        "finance_vqa: asks about pictures, and no column",
    ),
    "a model of text": (
        ["--model", "TINY"],
        "reads no pictures (its config.json has no vision_config), but the rows have",
    ),
    "a missing file": (["--data", "gone.jsonl", "--model", "VISION"], "no image 'images/60.png' in"),
    "no question": (["--data", "label.jsonl", "--model", "VISION"], 'there is no column beside "label" to ask about'),
}


@pytest.mark.parametrize(("options", "sentence"), PICTURES_REFUSED.values(), ids=PICTURES_REFUSED)
def test_what_pictures_do_not_tell_is_one_sentence(tmp_path, monkeypatch, tiny, tiny_vision, options, sentence):
    asked = {"question": lambda n: f"Is it {n}?", "answer": lambda n: "no"}
    pictured(tmp_path, "data.jsonl", image=path_of, **asked)
    pictured(tmp_path, "two.jsonl", image=path_of, before=path_of, **asked)
    pictured(tmp_path, "none.jsonl", **asked)
    pictured(tmp_path, "gone.jsonl", image=lambda n: f"images/{60 + n}.png", **asked)
    pictured(tmp_path, "label.jsonl", image=path_of, label=lambda n: ("cat", "dog")[n % 2])
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    named = {"TINY": str(tiny), "VISION": str(tiny_vision)}
    given = [named.get(option, option) for option in options]
    done = CliRunner().invoke(app, ["init", *([] if "--data" in given else ["--data", "data.jsonl"]), *given])
    assert done.exit_code == 2, done.output
    assert done.output.count("\n") == 1, done.output
    assert sentence in done.output
    assert set(tmp_path.rglob("*")) == before


# What is refused, before anything is written

REFUSED = {
    "no such file": (["--data", "gone.csv"], "gone.csv: no such file"),
    "no column of answers": (["--data", "free.csv"], "no column is called like an answer"),
    "no such column": (
        ["--data", "tickets.csv", "--answer", "desk"],
        '--answer "desk": no row has text there; the rows have',
    ),
    "no such model": (
        ["--data", "tickets.csv", "--model", "base"],
        "--model base: there is no such folder, and it is no hub id",
    ),
    "no such task": (
        ["--data", "tickets.csv", "--task", "sorting"],
        "--task sorting: no such task; name one of answer, ",
    ),
    "a file of one's own": (["--data", "tickets.csv", "--task", "./a.py"], "write that spec by hand"),
    "other columns": (
        ["--data", "tickets.csv", "--task", "finance_qa"],
        "reads the columns report, question, answer, and --data has no report; rename its columns",
    ),
    "a prompt too many": (
        ["--data", "tickets.csv", "--task", "medical_chat", "--prompt", "x"],
        "has a prompt of its own",
    ),
    "a prompt of no column": (["--data", "tickets.csv", "--prompt", "Which {desk}?"], "the rows have no such column"),
    "no base": (
        ["--data", "tickets.csv", "--adapter", "owner/name"],
        "nothing says which base it was trained on; add --model",
    ),
    "no adapter": (["--data", "tickets.csv", "--adapter", "."], "contains no adapter_config.json, so it is no adapter"),
    "a folder of other parts": (["--data", "parts"], "has the parts a, b; name one file, or a folder with the parts"),
}


@pytest.mark.parametrize(("options", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_inferred_is_one_sentence(tmp_path, monkeypatch, options, sentence):
    tickets(tmp_path)
    (tmp_path / "free.csv").write_text("a,b\n" + "".join(f"one {n},two {n}\n" for n in range(40)))
    for part in "ab":
        tickets(tmp_path / "parts", f"{part}.csv")
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["init", *options])
    assert done.exit_code == 2, done.output
    assert done.output.startswith("prism: ")
    assert done.output.count("\n") == 1
    assert sentence in done.output
    assert set(tmp_path.rglob("*")) == before


def test_a_column_that_no_row_fills_is_none():
    with pytest.raises(DataError, match="there is no column beside"):
        inferring.infer_columns([{"label": "a", "text": " "}] * 9, [], question=None, answer=None, closed=None)


# The schema


def test_the_schema_is_that_of_a_spec():
    done = CliRunner().invoke(app, ["schema"])
    schema = json.loads(done.stdout)
    assert set(schema["properties"]) == set(Spec.model_fields) - {"phase", "name", "folder"}
    assert schema["additionalProperties"] is False
    assert "training rows with a held-out twin" in schema["$defs"]["Data"]["properties"]["dedupe"]["description"]
    for path in find_specs(ROOT / "benchmarks" / "specs"):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        assert set(table) <= set(schema["properties"]), path
        assert set(schema["required"]) <= set(table), path
        assert set(table["data"]) <= set(schema["$defs"]["Data"]["properties"]), path


def test_the_spec_names_its_schema(tmp_path):
    init(tmp_path)
    (path,) = find_specs(tmp_path / "benchmarks" / "specs")
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert (path.parent / first.removeprefix("#:schema ")).read_text() == CliRunner().invoke(app, ["schema"]).stdout
