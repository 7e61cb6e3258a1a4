"""Reads spec files: the first problem of one becomes one sentence with its file, table, key, value and remedy."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prism.errors import SpecError
from prism.spec.schema import Spec

# PRISM sets these from the spec's own keys, or they would run code that nobody reviewed.
RESERVED = {
    "lora": {"task_type", "auto_mapping", "base_model_name_or_path"},
    "sft": {"output_dir", "seed", "data_seed", "report_to", "trust_remote_code", "push_to_hub", "model_init_kwargs"},
    "generate": {
        "do_sample",
        "eos_token_id",
        "num_return_sequences",
        "output_scores",
        "pad_token_id",
        "return_dict_in_generate",
        "trust_remote_code",
    },
}
# Of [generate.template]: what apply_chat_template itself takes.
TEMPLATE_RESERVED = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
}


# Values of [generate] that are counts, with the least that makes sense, numbers above 0, and true or false.
COUNTS = {
    "max_new_tokens": 1,
    "max_length": 1,
    "num_beams": 1,
    "min_new_tokens": 0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "top_k": 0,
}
POSITIVE = ("temperature", "top_p", "repetition_penalty", "encoder_repetition_penalty")
SWITCHES = ("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values")
MOST_BYTES = 256 * 1024  # a shipped spec has 2,000
# A dotted key makes a table of each of its parts. Tried only where a part begins, else long words take the square.
NESTED = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){30}""")


def load_spec(path: Path) -> Spec:
    """Read and check one spec file.

    Raises SpecError for the first problem: file, table, key, value and remedy in one sentence.
    """
    place = f"{path.parent.name}/{path.name}"
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise SpecError(f"{place}: has {size:,} bytes, more than the {MOST_BYTES:,} of any spec; correct the file")
        text = path.read_text(encoding="utf-8")
        if deep := NESTED.search(text):
            raise SpecError(f"{place}: {deep[0][:40]}… nests tables too deeply; correct that key")
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such spec; `prism specs` lists those that exist") from None
    except OSError as error:
        raise SpecError(f"{place}: cannot be read ({error.strerror or error}); make it a readable file") from None
    except (ValueError, RecursionError) as error:  # numbers of more digits than Python reads are plain ValueErrors
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise SpecError(f"{place}: not valid TOML: {why}") from None
    for name in ("phase", "name", "folder"):
        if name in table:
            raise SpecError(f"{place} {name} = {table[name]!r}: comes from the folder and file name; delete the key")
    try:
        spec = Spec(**table, phase=path.parent.name, name=path.stem, folder=path.parent)
    except ValidationError as error:
        raise SpecError(f"{place} {_first_problem(error)}") from None
    for name, keys in RESERVED.items():
        for key in keys & set(getattr(spec, name)):
            raise SpecError(f"{place} [{name}] {key}: is set by PRISM, or would run unreviewed code; delete it")
    _check_template(place, spec.generate.get("template", {}))
    _check_generate(place, spec.generate)
    return spec


def _check_generate(place: str, options: dict[str, Any]) -> None:
    """Raise SpecError for values that transformers takes and fails at after the model is loaded, or answers oddly."""
    stops = options.get("stop_strings", [])
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise SpecError(f"{place} [generate] stop_strings = {stops!r}: must be a list of non-empty strings")
    if "max_time" in options:
        raise SpecError(f"{place} [generate] max_time: answers would depend on the machine's speed; delete it")
    for key, least in COUNTS.items():
        value = options.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SpecError(f"{place} [generate] {key} = {value!r}: must be a whole number from {least} on")
    for key in POSITIVE:
        value = options.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise SpecError(f"{place} [generate] {key} = {value!r}: must be a number above 0")
    for key in SWITCHES:
        if not isinstance(options.get(key, True), bool):
            raise SpecError(f"{place} [generate] {key} = {options[key]!r}: must be true or false")
    if options.get("num_return_sequences", 1) != 1:
        raise SpecError(f"{place} [generate] num_return_sequences: a sample has one answer; delete it")


def _check_template(place: str, arguments: Any) -> None:
    """Raise SpecError if [generate.template] is no table of names with text, numbers or true and false."""
    if not isinstance(arguments, dict):
        raise SpecError(f"{place} [generate] template = {arguments!r}: must be a table, [generate.template]")
    for key, value in arguments.items():
        if key in TEMPLATE_RESERVED or not key.isidentifier():
            raise SpecError(f"{place} [generate.template] {key}: is no argument that a chat template reads; delete it")
        if not isinstance(value, str | int | float):
            raise SpecError(f"{place} [generate.template] {key} = {value!r}: must be text, a number, true or false")


def _first_problem(error: ValidationError) -> str:
    """The first validation error in TOML notation: `[gate.tier1] accuracy.floor = 1.2: must …`."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    # Pydantic adds the branch of a union (float | int) to the location.
    location = [part for part in location if part not in ("float", "int")]
    depth = 2 if location[:1] == ["gate"] else 1 if len(location) > 1 else 0
    table = f"[{'.'.join(location[:depth])}] " if depth else ""
    key = ".".join(location[depth:])
    value = problem["input"]
    shown = "" if problem["type"] == "missing" or isinstance(value, dict) else f" = {value!r}"
    message = {
        "extra_forbidden": "unknown key; delete it or check its spelling",
        "missing": "is missing; add it",
    }.get(problem["type"], problem["msg"].removeprefix("Value error, ").replace("Input should", "must"))
    named = f"{table}{key}{shown}"
    return f"{named}: {message}" if named else message  # without a name, the message itself starts with its table


def find_specs(folder: Path, phase: str = "*") -> list[Path]:
    """The spec files of one phase, or of all, under `folder` (benchmarks/specs), sorted by phase and name."""
    return sorted(folder.glob(f"{phase}/*.toml"))


def find_phases(folder: Path) -> list[str]:
    """The names of the phases: the folders under `folder` (benchmarks/specs)."""
    return sorted(path.name for path in folder.glob("[!._]*") if path.is_dir())
