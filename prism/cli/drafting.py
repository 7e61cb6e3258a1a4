"""The spec that `prism init` writes: what rows, model and adapter say, in TOML that was read and tried before."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from prism.cli import starter
from prism.cli.inferring import MOST_HELD_OUT, Columns, Told, infer_columns, quoted, read_source, split_line
from prism.devices import cuda_devices
from prism.errors import ModelError, SpecError
from prism.rows import Example, Row
from prism.rows.examples import load_examples
from prism.spec import Spec
from prism.store.adapters import find_adapter, read_config
from prism.tasks import known_tasks, load_task
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


def draft(root: Path, given: Given, sample: Path) -> tuple[Path, str, Told]:
    """The spec's path, its text, and what was inferred. It is read and its rows are made into examples before."""
    told: Told = []
    if given.task and (given.task.endswith(".py") or not re.fullmatch(r"\w+", given.task)):
        raise SpecError(f"--task {given.task}: must be classify, answer or a task of PRISM's; write that spec by hand")
    source = read_source(given.data.expanduser() if given.data else sample)
    model, adapter = _models(root, given, told)
    closed = {None: None, "classify": True, "answer": False}.get(given.task, False)
    columns = infer_columns(source.rows, told, question=given.question, answer=given.answer, closed=closed)
    task = given.task or ("classify" if columns.labels else "answer")
    table, mapped = _table(task, columns, given, told), ""
    if task not in OWN:
        mapped = _mapped(task, columns, source.rows[0], told)
    data = split_line(source, columns, adapter is not None, told) + mapped
    if columns.blank:
        empty = ", ".join(f'{quoted(name)} = [""]' for name in columns.blank)
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
        "training": "" if adapter else starter.TRAINING.format(device="" if cuda_devices() else starter.ON_CPU),
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
        training, held_out = load_examples(first, made, root)
        window, new_tokens = _window(root, model, [*training, *held_out], told)
        gate = starter.CLOSED if made.labels else starter.OPEN
        if task not in OWN and not made.labels:
            main = next(metric for metric in made.metrics if metric.direction == "higher")
            gate = f"[gate.{main.tier}]\n{main.name} = {{ gain = 0.0 }}\n"
        text, _ = read(window, new_tokens, starter.GATE.format(id=f"{phase}/{spec.stem}") + gate)
    kinds = "a gain that is shown" + ("" if not made.labels else ", also beyond the form of the answers")
    told.append(("gate", f"{kinds}; prism thresholds {phase}/{spec.stem} measures and proposes more"))
    return spec, text, told


def _models(root: Path, given: Given, told: Told) -> tuple[str, str | None]:
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


def _mapped(task: str, columns: Columns, row: Row, told: Told) -> str:
    """[data].columns for a task that names its own columns; empty if the rows have them."""
    if task not in known_tasks():
        raise SpecError(f"--task {task}: no such task; name one of {', '.join(known_tasks())}")
    module = import_module(f"prism.tasks.{task}")
    needed = tuple(module.COLUMNS)
    if getattr(module, "IMAGES", ()):
        raise SpecError(f"--task {task}: reads images, which init cannot prepare; copy a spec of that task and edit it")
    if all(name in row for name in needed):
        return ""
    if len(needed) != 2:
        raise SpecError(f"--task {task}: reads the columns {', '.join(needed)}; rename those of --data")
    pairs = {needed[0]: columns.question, needed[1]: columns.answer}
    told.append(
        ("columns", ", ".join(f"{theirs} is {own}" for own, theirs in pairs.items()) + f", as {task} calls them")
    )
    return (
        f"columns = {{ {', '.join(f'{own} = {quoted(theirs)}' for own, theirs in pairs.items() if own != theirs)} }}\n"
    )


def _window(root: Path, model: str, examples: Sequence[Example], told: Told) -> tuple[int, int]:
    """max_seq_length and max_new_tokens: measured if the model is here, else estimated from the characters."""
    folder = root / Path(model).expanduser()
    if folder.is_dir():
        from prism.models.sizes import sizes

        found = sizes(folder, model, [e.messages for e in examples], [e.reference for e in examples])
        question, answer, most, by = found.question, found.answer, found.most, f"the tokenizer of {folder.name}"
    else:
        question = 48 + max(sum(len(m["content"]) for m in e.messages) for e in examples) // 2
        answer, most = max(len(e.reference) for e in examples) // 2, None
        by = "an estimate, a token for two characters, as the model is not here"
    new_tokens = min(512, -(-(answer + 4) // 8) * 8)
    needed = -(-(question + new_tokens + STEP // 4) // STEP) * STEP
    window = min(needed, most) if most else needed
    sizes_said = f"the longest question takes {question:,} tokens and the longest answer {answer:,}, by {by}"
    over = f"; the model takes no more than {most:,}, so longer ones are cut" if most and needed > most else ""
    told.append(("window", f"max_seq_length = {window}, max_new_tokens = {new_tokens}: {sizes_said}{over}"))
    return window, new_tokens


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"


def _mark(name: str) -> str:
    """A phase's name, which is also its mark and stands between two underscores: letters and digits."""
    mark = re.sub(r"[^a-z0-9]", "", name.lower())
    return mark if mark[:1].isalpha() and mark not in TAKEN else f"rows{mark}"
