"""The spec that `prism init` writes: what rows, model and adapter say, in TOML that was read and tried before."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from prism.cli import starter
from prism.cli.inferring import MOST_HELD_OUT, Columns, Told, infer_columns, quoted, read_source, split_line
from prism.cli.pictures import Seen, fields_of, picture_column, reads_pictures, seen_by, task_of
from prism.devices import cuda_devices
from prism.errors import DataError, ModelError, SpecError
from prism.metrics import HARDEST
from prism.rows import Example, Row
from prism.rows.examples import load_examples
from prism.spec import Spec
from prism.store.adapters import find_adapter, read_config
from prism.store.homes import open_store
from prism.tasks import Task, known_tasks, load_task
from prism.tasks.check import load_checked_spec

PUBLISHED = "HuggingFaceTB/SmolLM2-135M-Instruct"  # a base for whoever names none: 135 M, minutes on a CPU, Apache-2.0
SAMPLE = Path("benchmarks", "data", "messages.csv")
OWN = ("classify", "answer")  # the tasks that a spec describes whole
# Marks that pytest or PRISM gives a meaning of its own, so no phase may be called so.
TAKEN = {"tier1", "tier2", "tier3", "cost", "nano", "small", "full", "slow", "skip", "skipif", "xfail", "parametrize"}
TAKEN |= {"usefixtures", "filterwarnings", "data", "schema"}
STEP = 64  # tokens: windows are rounded up to it


@dataclass(frozen=True)
class Given:
    """The options of `prism init`."""

    model: str | None
    adapter: str | None
    data: Path | None
    task: str | None
    prompt: str | None
    question: str | None
    answer: str | None
    image: str | None


def draft(root: Path, given: Given, sample: Path) -> tuple[Path, str, Told]:
    """The spec's path, its text, and what was inferred. It is read and its rows are made into examples before."""
    told: Told = []
    if given.task and (given.task.endswith(".py") or not re.fullmatch(r"\w+", given.task)):
        raise SpecError(f"--task {given.task}: must be classify, answer or a task of PRISM's; write that spec by hand")
    if given.task and given.task not in known_tasks():
        raise SpecError(f"--task {given.task}: no such task; name one of {', '.join(known_tasks())}")
    source = read_source(given.data.expanduser() if given.data else sample)
    image = picture_column(source.rows, given.image)
    task = given.task or (task_of(source.rows, image, given.answer, told) if image else None)
    if task and reads_pictures(task) and not image:
        raise DataError(
            f"--task {task}: asks about pictures, and no column of --data holds their paths (.png, .jpg, …); add one"
        )
    if task and not reads_pictures(task):
        if given.image:
            raise DataError(
                f"--image {given.image}: {task} reads no pictures; delete the option, or name another --task"
            )
        image = None
    model, adapter = _models(root, given, told, pictures=image is not None)
    columns, mapped = _columns(task, source.rows, image, given, told)
    task = task or ("classify" if columns.labels else "answer")
    folder = root / Path(model).expanduser()
    seen = seen_by(model, folder if folder.is_dir() else None, task, told) if image else Seen("", 0)
    table = _table(task, columns, given, told)
    names = {theirs: own for own, theirs in mapped.items()}
    if image and not adapter and columns.group is None:
        columns = replace(columns, group=names.get(image, image))
    data = split_line(source, columns, adapter is not None, told)
    if mapped:
        pairs = ", ".join(f"{own} = {quoted(theirs)}" for own, theirs in mapped.items())
        told.append(("columns", f"{pairs}: {task}'s names, and those of the rows"))
        data += f"columns = {{ {pairs} }}\n"
    if columns.blank:
        empty = ", ".join(f'{quoted(names.get(name, name))} = [""]' for name in columns.blank)
        data += f"without = {{ {empty} }}\n"
    if adapter and len(source.rows) > MOST_HELD_OUT:
        data += f"eval_rows = {MOST_HELD_OUT}\n"
        told.append(("eval_rows", f"{MOST_HELD_OUT:,} of {len(source.rows):,} rows, for minutes on a CPU; raise it"))
    phase = _mark((given.data or SAMPLE).stem)
    spec = Path("benchmarks", "specs", phase, f"{_slug(Path(adapter or model).name)}.toml")
    filled = {
        "title": quoted(f"{Path(adapter or model).name} on {(given.data or SAMPLE).name}"),
        "task": quoted(task),
        "adapter": f"adapter  = {quoted(adapter)}\n" if adapter else "",
        "path": quoted(_from(root, source.path, told, "data") if given.data else SAMPLE.as_posix()),
        "data": data,
        "model": quoted(model),
        "image": seen.table,
        "training": "" if adapter else starter.training(pictures=image is not None, on_cpu=not cuda_devices()),
        "table": table,
    }
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, phase, spec.name)
        file.parent.mkdir()

        def read(window: int, new_tokens: int, gate: str = "", path: str = filled["path"]) -> tuple[str, Spec]:
            text = starter.SPEC.format(**{**filled, "path": path}, window=window, new_tokens=new_tokens, gate=gate)
            file.write_text(text, encoding="utf-8")
            return text, load_checked_spec(file)

        _, first = read(1024, 8, path=quoted(str(source.path.resolve())))
        made = load_task(first)
        prepared = open_store(None).home / "images" if image else None
        training, held_out = load_examples(first, made, root, pictures=prepared)
        window, new_tokens = _window(root, model, [*training, *held_out], seen.tokens, told)
        gate = starter.CLOSED if made.labels else starter.OPEN
        if task not in OWN and not made.labels:
            gate = _gate(made, held_out)
        text, _ = read(window, new_tokens, starter.GATE.format(id=f"{phase}/{spec.stem}") + gate)
    kinds = "a gain that is shown" + ("" if not made.labels else ", also beyond the form of the answers")
    told.append(("gate", f"{kinds}; prism thresholds {phase}/{spec.stem} measures and proposes more"))
    return spec, text, told


def _columns(
    task: str | None, rows: Sequence[Row], image: str | None, given: Given, told: Told
) -> tuple[Columns, dict[str, str]]:
    """The columns of the rows, and [data].columns: by a task's own name, theirs, where these differ."""
    closed = {None: None, "classify": True, "answer": False}.get(task, False)
    if task is None or task in OWN:
        return infer_columns(rows, told, question=given.question, answer=given.answer, closed=closed), {}
    module = import_module(f"prism.tasks.{task}")
    pictures = tuple(getattr(module, "IMAGES", ()))
    texts = tuple(name for name in module.COLUMNS if name not in pictures)
    if image and (fields := fields_of(task, rows[0])):
        told.append(("question", f"one for each field of a receipt: {', '.join(fields)}; its value is the answer"))
        found = Columns(fields[0], fields[0], None, None, (), (), 0)
        return found, {pictures[0]: image} if image != pictures[0] else {}
    own = (texts[-2], texts[-1])
    columns = infer_columns(
        rows,
        told,
        question=given.question,
        answer=given.answer,
        closed=closed,
        own=own,
        image=image,
        lists=bool(getattr(module, "LISTS", ())),
    )
    pairs = dict(zip(texts, (columns.question, columns.answer))) | ({pictures[0]: image} if image else {})
    if len(texts) != 2:
        if missing := [name for name in texts if name not in rows[0]]:
            raise SpecError(
                f"--task {task}: reads the columns {', '.join(texts)}, and --data has no {missing[0]}; rename its columns"
            )
        pairs = {}
    return columns, {own: theirs for own, theirs in pairs.items() if own != theirs}


def _gate(task: Task, held_out: Sequence[Example]) -> str:
    """A gain of the metric that most samples have, and over the hardest control where the task has such a metric."""
    known = [metric for metric in task.metrics if metric.direction == "higher"]
    counts = {metric.name: sum(map(metric.applies, held_out)) for metric in known}
    main = max((metric for metric in known if metric.against == "baseline"), key=lambda metric: counts[metric.name])
    seeing = [metric for metric in known if metric.against == HARDEST and counts[metric.name]]
    lines = [f"{metric.name} = {{ gain = 0.0 }}\n" for metric in (main, *seeing) if metric.tier == main.tier]
    return f"[gate.{main.tier}]\n{''.join(lines)}"


def _models(root: Path, given: Given, told: Told, pictures: bool) -> tuple[str, str | None]:
    """The base and the adapter as a spec names them."""
    adapter = _model_name(root, given.adapter, "--adapter", told) if given.adapter else None
    base, said = None, ""
    if adapter and (root / Path(adapter).expanduser()).is_dir():
        found, _ = find_adapter(adapter, root, f"--adapter {given.adapter}")
        config = read_config(found, f"--adapter {given.adapter}")
        base, said = config.get("base_model_name_or_path"), f"adapter_config.json: r = {config.get('r')}"
        told.append(("adapter", f"{adapter}, by {said}, trained on {base}"))
    elif adapter:
        told.append(("adapter", f"{adapter}: a hub id, as there is no such folder; read when it is first run"))
    if given.model:
        model = _model_name(root, given.model, "--model", told)
        told.append(("model", f"{model}, by --model"))
    elif base:
        model = _model_name(root, str(base), "--adapter, whose adapter_config.json names the base", told)
        told.append(("model", f"{model}, by adapter_config.json"))
    elif adapter:
        raise ModelError(f"--adapter {given.adapter}: nothing says which base it was trained on; add --model")
    elif pictures:
        raise ModelError(
            "--data: its rows have pictures, and no vision-language model is named that could look at them; add --model"
        )
    else:
        model = PUBLISHED
        told.append(("model", f"{model}: none was named; the first run downloads it (270 MB), or add --model"))
    return model, adapter


def _model_name(root: Path, name: str, option: str, told: Told) -> str:
    """A model as a spec names it: a folder by its path from the root, or a hub id as it is."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from(root, folder, told, option)
    if (root / folder).is_dir():
        return name
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"{option} {name}: there is no such folder, and it is no hub id (owner/name); correct it")
    return name


def _from(root: Path, path: Path, told: Told, what: str) -> str:
    """A path from the root, or whole if it lies outside."""
    path = path.resolve()
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    told.append(
        ("careful", f"{path} lies outside {root}, so another machine will not find it; move it into the project")
    )
    return path.as_posix()


def _table(task: str, columns: Columns, given: Given, told: Told) -> str:
    """The table [classify] or [answer]; empty for other tasks, which have prompts of their own."""
    if task not in OWN:
        if given.prompt:
            raise SpecError(f"--prompt: {task} has a prompt of its own; delete the option, or name another --task")
        return ""
    asked = f"{{{columns.context}}}\n\n{{{columns.question}}}" if columns.context else f"{{{columns.question}}}"
    prompt = given.prompt or (f"Answer by one of these words: {{labels}}.\n\n{asked}" if columns.labels else asked)
    prompt = prompt.replace("\\n", "\n")
    if given.prompt:
        told.append(("prompt", "by --prompt"))
    else:
        why = "; the adapter must be asked as it was trained: see --prompt" if given.adapter else ""
        told.append(("prompt", f"{json.dumps(prompt, ensure_ascii=False)}, PRISM's own{why}"))
    labels = f"labels = [{', '.join(map(quoted, columns.labels))}]\n" if columns.labels else ""
    return f"\n[{task}]\n{labels}prompt = {quoted(prompt)}\ncolumn = {quoted(columns.answer)}\n"


def _window(root: Path, model: str, examples: Sequence[Example], pictures: int, told: Told) -> tuple[int, int]:
    """max_seq_length and max_new_tokens: measured if the model is here, else estimated from the characters.

    `pictures` are the tokens of a question's picture.
    """
    folder = root / Path(model).expanduser()
    if folder.is_dir():
        from prism.models.sizes import sizes

        found = sizes(folder, model, examples)
        question, answer, most, by = found.question, found.answer, found.most, f"the tokenizer of {folder.name}"
    else:
        question = 48 + max(sum(len(m["content"]) for m in e.messages) for e in examples) // 2
        answer, most = max(len(e.reference) for e in examples) // 2, None
        by = "an estimate, a token for two characters, as the model is not here"
    question += pictures
    new_tokens = min(512, -(-(answer + 4) // 8) * 8)
    needed = -(-(question + new_tokens + STEP // 4) // STEP) * STEP
    window = min(needed, most) if most else needed
    looks = f" with its picture ({pictures:,})" if pictures else ""
    sizes_said = f"the longest question takes {question:,} tokens{looks} and the longest answer {answer:,}, by {by}"
    over = f"; the model takes no more than {most:,}, so longer ones are cut" if most and needed > most else ""
    told.append(("window", f"max_seq_length = {window}, max_new_tokens = {new_tokens}: {sizes_said}{over}"))
    return window, new_tokens


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"


def _mark(name: str) -> str:
    """A phase's name, which is also its mark and stands between two underscores: letters and digits."""
    mark = re.sub(r"[^a-z0-9]", "", name.lower())
    return mark if mark[:1].isalpha() and mark not in TAKEN else f"rows{mark}"
