"""Every reader of text that others wrote, with valid inputs to spoil, for `tests.faults.fuzz`.

A reader either reads an input or raises a PrismError. It gets bytes, so that what is spoilt may be no text at all.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from prism.errors import PrismError
from prism.spec import load_spec
from prism.store import MANIFEST, Store, digest
from tests.conftest import ROOT, SPEC, make_tiny, write_spec

ROWS = {
    "financial-sentiment": ("phase1/nano", 12),
    "medical-flashcards": ("phase2/nano", 12),
    "finance-reports": ("phase3/nano", 8),
    "radiology-phantoms": ("phase5/nano", 8),
    "charts-and-receipts": ("phase6/nano", 8),
}


@dataclass(frozen=True)
class Reader:
    seeds: list[bytes]
    read: Callable[[bytes], object]


def spec(folder: Path) -> Reader:
    from prism.models import generate, train
    from prism.tasks.check import load_checked_spec

    file = folder / "phase1" / "fuzz.toml"
    file.parent.mkdir()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        found = load_checked_spec(file)
        generate.check(found)
        if not found.adapter:
            train.check(found, folder)

    return Reader([path.read_bytes() for path in (ROOT / "benchmarks" / "specs").glob("*/*.toml")], read)


def rows(folder: Path) -> Reader:
    """Files of rows by their own look: Parquet, gzip, JSON lines, else CSV."""
    import pyarrow
    import pyarrow.parquet

    from prism.rows.files import read_rows

    table = [
        {"tweet": "Shares rise é", "sentiment": 1, "day": 2.5},
        {"tweet": 'He said, "no"', "sentiment": 2, "day": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "seed.parquet")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table).encode()
    csv = 'tweet,sentiment,day\n"Shares rise, é",1,2.5\n"He said ""no""\nand left",2,\n'.encode()
    seeds = [
        *(lines, gzip.compress(lines, mtime=0), (folder / "seed.parquet").read_bytes(), csv, csv.replace(b",", b";")),
        *(csv.decode().encode("utf-16"), csv.decode().encode("utf-8-sig"), csv.replace(b'""', b'\\"')),
    ]

    def read(content: bytes) -> None:
        looks = {b"PAR1": "a.parquet", b"\x1f\x8b\x08\x00": "a.jsonl.gz"}
        suffix = looks.get(content[:4]) or ("a.jsonl" if content[:1] == b"{" else "a.csv")
        (folder / suffix).write_bytes(content)
        read_rows(folder / suffix)

    return Reader(seeds, read)


def examples(folder: Path) -> Reader:
    """Rows of each shipped task, up to the examples and their leaks."""
    from prism.rows.leaks import find_twins
    from tests.conftest import examples_of

    known, seeds = {}, []
    for name, (of, count) in ROWS.items():
        text = (ROOT / "benchmarks" / "specs" / f"{of}.toml").read_text(encoding="utf-8")
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("train_rows", "eval_rows")))
        text = text.replace(f"fixtures/data/{name}", str(folder / name))
        (folder / of.partition("/")[0]).mkdir()
        (folder / f"{of}.toml").write_text(text, encoding="utf-8")
        known[name] = load_spec(folder / f"{of}.toml")
        source = ROOT / "fixtures" / "data" / name
        (folder / name).mkdir()
        if (source / "images").is_dir():
            (folder / name / "images").symlink_to(source / "images")
        with (source / "train.jsonl").open("rb") as file:
            lines = [line for _, line in zip(range(count), file)]
        seeds.append(b"".join(lines))
    names = list(known)

    def read(content: bytes) -> None:
        matches = [name for name, seed in zip(names, seeds) if content[:12] == seed[:12]]
        name = matches[0] if matches else names[len(content) % len(names)]
        (folder / name / "train.jsonl").write_bytes(content)
        training, held_out = examples_of(known[name], folder, pictures=folder / "pictures")
        find_twins(training, held_out)

    return Reader(seeds, read)


def scores(folder: Path) -> Reader:
    """Accepted scores, with a checksum that fits, as a forger would write it; then compared with unspoilt ones."""
    from prism.tasks import metrics_of
    from prism.verdicts import looks
    from prism.verdicts.compare import compare, differences
    from prism.verdicts.scores import read_scores, write_scores
    from tests.scored import answers, scored, tiny_spec

    said = {42: answers(12, wrong=range(3)), 43: answers(12, wrong=range(2, 4))}
    own = tiny_spec(folder)
    good = scored(own, said)
    write_scores(good, folder / "good.json")
    write_scores(scored(own, said, groups=3), folder / "grouped.json")
    metrics = metrics_of(good, ROOT)

    def read(content: bytes) -> None:
        (folder / "spoilt.json").write_bytes(_resealed(content))
        found = read_scores(folder / "spoilt.json")
        looks.measurement(found)
        compare(found, good, metrics, len(metrics))
        differences(found, good)
        write_scores(found, folder / "again.json")

    return Reader([(folder / name).read_bytes() for name in ("good.json", "grouped.json")], read)


def _resealed(content: bytes) -> bytes:
    try:
        table = json.loads(content)
        table.pop("checksum")
        return json.dumps({"checksum": digest(table), **table}).encode()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return content


def manifest(folder: Path) -> Reader:
    """A store's manifest: what is found under a digest is what was stored there."""
    import warnings

    store, identity = Store(folder), {"rows": "abc", "seed": 42}

    def work(partial: Path) -> dict[str, float]:
        (partial / "weights").write_text("the content")
        return {"seconds": 1.0}

    good = store.make("adapters", identity, work)
    kept = folder / "kept"
    shutil.copytree(good, kept)

    def read(content: bytes) -> None:
        if good.exists():
            shutil.rmtree(good)
        shutil.copytree(kept, good)
        (good / MANIFEST).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = store.find("adapters", identity)
        assert found is None or (found / "weights").read_text() == "the content"
        for damaged in folder.glob("adapters/*.damaged-*"):
            shutil.rmtree(damaged)

    return Reader([(kept / MANIFEST).read_bytes()], read)


def ledger(folder: Path) -> Reader:
    """A judge's ledger: nothing but lines that were written is read."""
    import warnings

    from prism.judge import ledger

    store, identity, wrote = Store(folder), {"judge": "a"}, {}
    for n in range(3):
        wrote[str(n)] = {"score": n / 2, "reason": "é\u2028", "note": "", "judge": "m"}
    with ledger.locked(store, identity, "x") as log:
        for key, entry in wrote.items():
            log.add(key, **entry)
    [file] = folder.glob("judgements/*/judgements.jsonl")
    good = file.read_bytes()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        ledger.read(store, identity)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with ledger.locked(store, identity, "x") as log:
                found = dict(log.entries)
        for key, entry in found.items():
            assert wrote[key] == {name: value for name, value in entry.items() if name != "key"}
        for damaged in folder.glob("judgements/*/*damaged*"):
            damaged.unlink()

    return Reader([good], read)


def look(folder: Path) -> Reader:
    from prism.verdicts import looks
    from tests.scored import answers, scored, tiny_spec

    good, store = scored(tiny_spec(folder), {42: answers(12)}), Store(folder / "home")
    looks.record(good, store)
    [file] = (folder / "home" / looks.FOLDER).rglob("*.json")
    seeds = [file.read_bytes()]

    def read(content: bytes) -> None:
        file.write_bytes(content)
        looks.count(good, store, "")
        looks.seeds_seen(good, store)
        looks.place(good, good, store, "")

    return Reader(seeds, read)


def calibration(folder: Path) -> Reader:
    from prism.judge import MEDICAL_CORRECTNESS
    from prism.judge.calibration import _path, load_calibration
    from prism.judge.choosing import Choice
    from prism.verdicts.gate import decide  # noqa: F401

    choice, store = Choice("endpoint", "m", "http://127.0.0.1:9/v1"), Store(folder)
    table = {
        "judge": "endpoint:m",
        "metric": "x",
        "source": "s",
        "constructed": True,
        "n": 3,
        "unscored": {},
        "levels": [0, 1],
        "kappa": {"value": 0.5, "ci": [0.1, 0.9], "p": None, "rule": ""},
        "length": None,
        "repeats": 2,
        "retest_deviation": 0.1,
        "retest_changed": 0.0,
        "kinds": [{"kind": "a", "n": 1}],
        "made": "",
    }
    file = _path(choice, MEDICAL_CORRECTNESS, store)
    file.parent.mkdir(parents=True)

    def read(content: bytes) -> None:
        file.write_bytes(content)
        load_calibration(choice, MEDICAL_CORRECTNESS, store)

    return Reader([json.dumps(table).encode()], read)


def reply(folder: Path) -> Reader:
    """A judge's whole HTTP body."""
    from prism.judge import MEDICAL_CORRECTNESS, Case
    from prism.judge.choosing import choose
    from prism.judge.grading import grade
    from tests.loopback import tokens

    said = '{"score": 7, "reason": "half of it"}'
    message = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    body = {"object": "chat.completion", "model": "m", "choices": [message]}
    body["usage"] = {"prompt_tokens": 10, "completion_tokens": 5}
    weighed = {**body, "choices": [message | {"logprobs": {"content": tokens(said)}}]}
    wordy = {**body, "choices": [message | {"message": {"role": "assistant", "content": f"<think>a</think> {said}"}}]}
    holder = {"status": 200, "body": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(holder["status"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(holder["body"])))
            self.end_headers()
            self.wfile.write(holder["body"])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    choice = replace(choose(f"http://127.0.0.1:{server.server_port}/v1#m", {}), attempts=1)
    store = Store(folder)

    def read(content: bytes) -> None:
        holder["body"] = content
        holder["status"] = (200, 200, 200, 400, 429, 401, 404)[len(content) % 7]
        [found] = grade(
            choice, MEDICAL_CORRECTNESS, [Case("a", "Why?", "it", digest([len(content)]))], store, repeat=id(content)
        )
        assert found.score is None or 0 <= found.score <= 1
        shutil.rmtree(folder / "judgements", ignore_errors=True)

    return Reader([json.dumps(part).encode() for part in (body, weighed, wordy)], read)


def predictions(folder: Path) -> Reader:
    """Half a file of answers: it resumes after whole lines, and those are answers."""
    from prism.rows.answers import ANSWERS, finished_ids

    lines = [{"id": f"{n:012x}", "answer": f"a\u2028{n}", "tokens": n, "finish": "stop"} for n in range(4)]
    good = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()

    def read(content: bytes) -> None:
        (folder / ANSWERS).write_bytes(content)
        found = finished_ids(folder / ANSWERS)
        assert finished_ids(folder / ANSWERS) == found

    return Reader([good], read)


def answers(folder: Path) -> Reader:
    """Answers of a model, through every metric of every shipped task, and the reports' words."""
    from prism.rows.thoughts import without_thoughts
    from prism.tasks import load_task
    from prism.untrusted import terminal_safe
    from tests.conftest import examples_of

    asked = []
    for of, _ in ROWS.values():
        known = load_spec(ROOT / "benchmarks" / "specs" / f"{of}.toml")
        _, held_out = examples_of(known, ROOT, pictures=folder / "pictures")
        asked.append((load_task(known), held_out[:3]))
    seeds = [
        *(b"bullish", b"The sentiment is **bearish**, not bullish.", b"<think>\nneutral?\n</think>\nbullish"),
        *(
            b"Not stated.",
            b'{"answer": "$1.2 billion", "evidence": "revenue was 1,234.5"}',
            b"(12.5)% or -3,000 thousand",
        ),
        *(b"12 / 4 = 3", b"The heart, a muscle; it pumps.", b"yes", "„1.234,56 €“ – 5 ‰".encode(), b"1. a\n2. b\n- c"),
    ]

    def read(content: bytes) -> None:
        text = content.decode("utf-8", "replace")
        said, _ = without_thoughts(text)
        terminal_safe(said)
        for task, held_out in asked:
            for metric in task.metrics:
                metric.statistics(held_out, [said, text, ""])
            if task.details:
                task.details(held_out, [said, text, ""])

    return Reader(seeds, read)


def model(folder: Path) -> Reader:
    """A model folder of a stranger: one of its JSON files is spoilt, by its keys; the weights are whole."""
    from prism.models import load

    good, known = _tiny(folder)
    names = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
    contents = {name: (good / name).read_bytes() for name in names}

    def read(content: bytes) -> None:
        name = _nearest(content, contents)
        (good / name).write_bytes(content)
        try:
            load.load(known, folder)
        finally:
            (good / name).write_bytes(contents[name])

    return Reader(list(contents.values()), read)


def template(folder: Path) -> Reader:
    """A chat template, up to the prompts of the examples."""
    from prism.models import generate, load
    from prism.models.chat import decide, set_template
    from tests.conftest import examples_of

    good, known = _tiny(folder)
    base = load.load(known, folder)
    training, _ = examples_of(known, folder)
    original = base.tokenizer.chat_template
    seeds = [
        path.read_bytes()
        for path in (good / "chat_template.jinja", *ROOT.glob("fixtures/models/*/chat_template.jinja"))
    ]

    def read(content: bytes) -> None:
        base.tokenizer.chat_template = content.decode("utf-8", "replace")
        try:
            set_template(known, base.tokenizer, folder)
            base.chat = decide(known, base.tokenizer, base.tokenizer, "")
            for example in training[:3]:
                generate.encode(base, example)
        finally:
            base.tokenizer.chat_template = original

    return Reader(seeds, read)


def adapter(folder: Path) -> Reader:
    """A stranger's adapter: its configuration or its weights are spoilt."""
    from peft import PeftModel

    from prism.models import adapters, load
    from prism.store.adapters import CONFIG, WEIGHTS, find_adapter

    _, known = _tiny(folder)
    known = known.model_copy(update={"adapter": str(folder / "adapter")})
    base = load.load(known.model_copy(update={"adapter": None}), folder)
    load.add_adapter(base, 42).save_pretrained(str(folder / "adapter"))
    base.spec = known
    contents = {name: (folder / "adapter" / name).read_bytes() for name in (CONFIG, WEIGHTS)}

    def read(content: bytes) -> None:
        name = CONFIG if content[:1] == b"{" else WEIGHTS
        (folder / "adapter" / name).write_bytes(content)
        base.model = load.load(known, folder).model
        taken = folder / "taken"
        shutil.rmtree(taken, ignore_errors=True)
        taken.mkdir()
        try:
            find_adapter(str(folder / "adapter"), folder, "adapter")
            adapters.take(base, str(folder / "adapter"), folder, taken)
            assert isinstance(adapters.load_adapter(base, taken), PeftModel)
        finally:
            (folder / "adapter" / name).write_bytes(contents[name])

    return Reader(list(contents.values()), read)


def _tiny(folder: Path):
    """A tiny model's folder and a spec of it, with rows."""
    good = make_tiny(folder / "tiny") if not (folder / "tiny").is_dir() else folder / "tiny"
    lines = [{"tweet": f"Company {n} shares {n}", "sentiment": n % 3} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return good, load_spec(write_spec(folder, SPEC.format(data=folder / "rows.jsonl", model=good)))


def _nearest(content: bytes, contents: dict[str, bytes]) -> str:
    """The file whose beginning or end an input has; the first one if it has none's."""
    for name, good in contents.items():
        if content[:40] == good[:40] or content[-40:] == good[-40:]:
            return name
    return next(iter(contents))


def image(folder: Path) -> Reader:
    from PIL import Image

    from prism.rows.images import prepare, read_source
    from prism.spec import Image as Options

    seeds = []
    picture = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    for form, options in (
        ("PNG", {}),
        ("JPEG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        seeds.append(buffer.getvalue())
    for mode in ("I;16", "LA", "P", "1", "CMYK"):
        buffer = io.BytesIO()
        picture.convert("L").convert("I;16" if mode == "I;16" else mode).save(buffer, "TIFF")
        seeds.append(buffer.getvalue())

    def read(content: bytes) -> None:
        (folder / "a.png").write_bytes(content)
        options = Options(size=32, depth="scale", frames="first", max_megapixels=1)
        prepare(read_source("a.png", folder, "row 1"), options, folder / "prepared", "row 1")
        shutil.rmtree(folder / "prepared", ignore_errors=True)

    return Reader(seeds, read)


def run(folder: Path) -> Reader:
    """The folder of a run that came as an artifact, sealed as a forger would: up to `prism accept` and `prism bundle`."""
    from prism.acceptance import accept
    from prism.bundle import pack
    from prism.store.seal import seal
    from tests.scored import answers, scored, tiny_spec
    from tests.test_reference import finished

    own = scored(tiny_spec(folder), {42: answers(12)})
    of = finished(folder / "checkout", own, details={"artifacts": {"baseline": "predictions/" + "ab" * 32}})
    seeds = [(of / "results.json").read_bytes()]
    allowed = {"checkout", "benchmarks", "home"}
    (folder / "home").mkdir()

    def read(content: bytes) -> None:
        (of / "results.json").write_bytes(content)
        seal(of)
        try:
            accept(of, folder / "checkout", force=bool(len(content) % 2))
        finally:
            assert {path.name for path in folder.iterdir()} <= allowed, "written outside the checkout"
            assert {path.name for path in (folder / "checkout").iterdir()} == {"reports"}
            shutil.rmtree(folder / "checkout" / "reports" / "reference", ignore_errors=True)
        with contextlib.suppress(PrismError):
            pack(of, Store(folder / "home"), folder / "home" / "a.tar.xz")

    return Reader(seeds, read)


def bundle(folder: Path) -> Reader:
    """A bundle of answers: a tar with spoilt members, or a spoilt tar."""
    from prism.bundle import rescore
    from prism.progress import Console
    from prism.setting import Setting

    known = {
        "id": "20260102-030405-1f",
        "complete": True,
        "partial": "",
        "provenance": {"machine": {"gpus": []}, "versions": {}, "python": "3.11"},
    }
    stages = {"baseline": "ab", "training, seed 42": "cd", "tuned, seed 42": "ef"}
    artifacts = {
        stage: f"{'adapters' if 'training' in stage else 'predictions'}/{n * 32}" for stage, n in stages.items()
    }
    table = known | {"specs": [{"phase": "phase1", "spec": "tiny", "details": {"artifacts": artifacts}}]}

    def packed(text: bytes) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("results.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        return buffer.getvalue()

    _tiny(folder)
    setting = Setting(folder, Store(folder / "home"), Console())

    def read(content: bytes) -> None:
        (folder / "a.tar").write_bytes(packed(content) if content[:1] == b"{" else content)
        rescore([folder / "a.tar"], setting, folder / "reports", "prism rescore")

    return Reader([json.dumps(table).encode(), packed(json.dumps(table).encode())], read)


READERS: dict[str, Callable[[Path], Reader]] = {
    reader.__name__: reader
    for reader in (
        *(spec, rows, examples, scores, manifest, ledger, look, calibration, reply, predictions, answers, image, run),
        *(bundle, model, template, adapter),
    )
}
