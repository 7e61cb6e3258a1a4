"""Compare the speed of PRISM, plain TRL and transformers, and Unsloth's notebook defaults on this machine's GPU.

    python -m benchmarks.speed.gpu --out FILE

Each contender runs in its own process on a random-weight twin (fixtures/make/twin.py) and bundled flashcards, and
prints one line of JSON; the Markdown table is made from these lines. Training counts from the fourth step ("as published":
the second half of 120 steps, of the smallest model 600), generation from the second pass, to exclude compiling and
loading. Their cost has its own columns: seconds of the first step or pass in a new process, and of one more pass with all
of PRISM's set-up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.speed.lines import CONTENDERS, OWN
from prism.devices import use_one_gpu
from prism.store.provenance import versions

ROOT = Path(__file__).resolve().parents[2]
STEPS, WARM = 9, 3
PROMPTS, NEW_TOKENS = 512, 64
QUESTIONS = 17  # in one prompt: about 190 tokens, as long as a prompt of a published task with its instructions
LORA = {
    "r": 16,
    "lora_alpha": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
TOLD = ("engine", "why", "most_tokens", "gradient_checkpointing", "activations_gib", "trained_share")  # of the notes
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth", "liger-kernel")


def spec_for(folder: str, options: dict[str, Any], sft: dict[str, Any], rows: int) -> Any:
    from prism.spec import Data, Launch, Model, Spec, Split

    processes = sft.get("processes", 1)
    sft = {key: value for key, value in sft.items() if key not in OWN}
    defaults = {
        "max_steps": STEPS,
        "gradient_accumulation_steps": 1,
        "bf16": True,
        "learning_rate": 2e-4,
        "optim": "adamw_8bit",
    }
    return Spec(
        title="speed",
        task="medical_chat",
        profile="full",
        data=Data(path="fixtures/data/medical-flashcards", split=Split(test_size=0.1), train_rows=rows),
        model=Model(model_name=folder, max_seq_length=1024, **options),
        lora=LORA,
        sft=defaults | sft,
        launch=Launch(processes=processes),
        generate={"max_new_tokens": NEW_TOKENS},
        phase="speed",
        name="speed",
    )


def run(name: str, twin: str) -> dict[str, Any]:
    """Run one contender in this process on one GPU."""
    use_one_gpu()
    what, library, _, options, work = CONTENDERS[name]
    if library != "prism":
        os.environ["PRISM_ENGINE"] = "plain"  # Unsloth on a large card, too
    if library != "unsloth":
        sys.modules["unsloth"] = None  # type: ignore[assignment]  # as if it was not installed
    from prism.models import captured, load, packing
    from prism.rows.examples import load_examples
    from prism.tasks import load_task

    # ruff: isort: split
    import torch

    captured.COMPILED_FROM = 0  # as in a whole recipe, of which this is the beginning
    if what == "train" and library == "plain":
        packing.packed_attention = lambda *_: nullcontext()  # type: ignore[assignment]  # unpatched TRL
    spec = spec_for(twin, options, work if what == "train" else {"gradient_checkpointing": False}, 1_000)
    cards = load_examples(spec, load_task(spec), ROOT)[0]
    if what == "train" and "questions" in work:
        cards = [_longer(cards, n, work["questions"]) for n in range(len(cards))]
    start = time.perf_counter()
    base = load.load(spec, ROOT)
    torch.cuda.synchronize()
    found: dict[str, Any] = {"load_s": time.perf_counter() - start, "load_gib": torch.cuda.memory_allocated() / 2**30}
    torch.cuda.reset_peak_memory_stats()
    found |= train(base, cards) if what == "train" else answer(base, cards, library, work, options)
    return found | {"peak_gib": torch.cuda.max_memory_allocated() / 2**30, "gpu": torch.cuda.get_device_name()}


def train(base: Any, cards: list[Any]) -> dict[str, Any]:
    """Real (unpadded) tokens per second, from step WARM, or in the second half of many steps."""
    from prism.models import launch

    times = [time.perf_counter()]

    def advance(steps: int, live: str = "", /) -> None:
        times.extend([time.perf_counter()] * steps)

    with tempfile.TemporaryDirectory() as folder:
        notes = launch.train(base, cards * 6, 42, Path(folder), advance)
    whole, steps = notes["tokens"] / notes["steps"], notes["steps"]
    warm = max(WARM, steps // 2 if steps > STEPS else 0)
    return {
        "rate": whole * (steps - warm) / (times[steps] - times[warm]),
        "start_s": times[1] - times[0],
        "tokens_a_step": whole,
        "loss": [notes["loss"][0][1], notes["loss"][-1][1]],
        **{key: notes[key] for key in TOLD if key in notes},
    }


def answer(base: Any, cards: list[Any], library: str, work: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """New tokens per second in steady state; seconds of the first pass, and of one more with its set-up."""
    import torch

    from prism.models import decode, generate, load, reading

    if options and library == "prism":
        base.model = load.add_adapter(base, 42)
        for name, weight in base.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.01)
    cards = [_longer(cards, n, work.get("questions", QUESTIONS)) for n in range(PROMPTS)]
    encoded = sorted(generate.encode_all(base, cards), key=len, reverse=True)
    widths: dict[str, Any] = {"prompt_tokens": [min(map(len, encoded)), max(map(len, encoded))]}
    if library == "prism":
        passes = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                notes = generate.answers(base, base.model, cards, Path(folder))
                passes.append(time.perf_counter() - start)
        if many := work.get("many"):
            more = [cards[n % PROMPTS] for n in range(many)]
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                generate.answers(base, base.model, more, Path(folder))
                widths |= {"many": many, "many_rate": many * NEW_TOKENS / (time.perf_counter() - start)}
        decoder = decode.Decoder(base.model, PROMPTS, max(map(len, encoded)) + NEW_TOKENS)
        rates = []
        for _ in range(3):
            start = time.perf_counter()
            answers = decoder.answer(encoded, NEW_TOKENS, [base.tokenizer.pad_token_id])
            rates.append(sum(map(len, answers)) / (time.perf_counter() - start))
        return widths | notes | {"rate": rates[-1], "start_s": passes[0], "again_s": passes[1]}
    if library == "unsloth":
        from unsloth import FastLanguageModel

        FastLanguageModel.for_inference(base.model)
    seconds = []
    with torch.no_grad():
        for _ in range(2):
            start, produced = time.perf_counter(), 0
            for offset in range(0, PROMPTS, work["batch"]):
                prompt = reading.pad(base, encoded[offset : offset + work["batch"]])
                whole = base.model.generate(
                    **prompt, do_sample=False, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
                )
                produced += (whole.shape[1] - prompt["input_ids"].shape[1]) * len(whole)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return widths | {"rate": produced / seconds[1], "start_s": seconds[0], "again_s": seconds[1]}


def _longer(cards: list[Any], n: int, questions: int) -> Any:
    asked = [cards[(n + k) % len(cards)].messages[1]["content"] for k in range(questions)]
    messages = (cards[n].messages[0], {"role": "user", "content": " ".join(asked)})
    return replace(cards[n], messages=messages)


def table(found: dict[str, dict[str, Any]]) -> str:
    """The contenders by job, and how much faster PRISM is with the same base and questions."""

    def work(name: str) -> tuple[Any, ...]:
        what, _, twin, options, asked = CONTENDERS[name]
        return what, twin, options, asked.get("questions"), "as published" in name

    names = ("PRISM:", "PRISM as published")
    own = [(work(name), line["rate"]) for name, line in found.items() if name.startswith(names) and "rate" in line]

    def ratio(name: str) -> str:
        rate = next((rate for done, rate in own if done == work(name)), None)
        return f"{rate / found[name]['rate']:.2f}" if rate and not name.startswith("PRISM") else ""

    blocks = []
    for what, title in (("train", "Training, real tokens/s"), ("answer", "Generation, new tokens/s")):
        rows = {name: line for name, line in found.items() if CONTENDERS[name][0] == what}
        cells = [
            [
                name,
                f"{line['rate']:,.0f}" if "rate" in line else line["error"],
                ratio(name) if "rate" in line else "",
                f"{line['start_s']:.1f}" if "start_s" in line else "",
                f"{line['again_s']:.1f}" if "again_s" in line else "",
                f"{line['load_gib']:.2f}" if "load_gib" in line else "",
                f"{line['peak_gib']:.2f}" if "peak_gib" in line else "",
            ]
            for name, line in rows.items()
        ]
        head = [title, "tokens/s", "PRISM is faster by", "first, s", "again, s", "loaded, GiB", "peak, GiB"]
        if not cells:
            continue
        blocks.append(tabulate(cells, head, tablefmt="pipe", disable_numparse=True, colalign=("left", *["right"] * 6)))
    return "\n\n".join(blocks)


def page(found: dict[str, dict[str, Any]]) -> str:
    """The machine and libraries, the tables, then the speed with many prompts including set-up."""
    gpu = next((line["gpu"] for line in found.values() if "gpu" in line), "no GPU")
    libraries = ", ".join(f"{name} {number}" for name, number in versions(LIBRARIES).items())
    many = "".join(
        f"\n{name}: {line['many']:,} × {NEW_TOKENS}, with tokenizing and set-up, {line['many_rate']:,.0f} new tokens/s.\n"
        for name, line in found.items()
        if "many" in line
    )
    return f"{gpu}, {datetime.now(UTC):%Y-%m-%d}; {libraries}.\n\n{table(found)}\n{many}"


def apart(command: list[str]) -> dict[str, Any]:
    """What a process prints as its last line, JSON; an `error` if it fails, of which more is printed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    try:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError):
        print(done.stderr[-3_000:], file=sys.stderr)
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.gpu", description=__doc__)
    parser.add_argument("--only", action="append", help="run only contenders with this in their name (repeatable)")
    parser.add_argument("--layers", type=int, help="use twins with fewer layers, for a quick trial")
    parser.add_argument("--twins", type=Path, help="the folder of the twins; missing ones are written there")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    twins = given.twins or Path(tempfile.mkdtemp())
    if given.one:
        print("\n" + json.dumps(run(given.one, str(twins / CONTENDERS[given.one][2]))))
        return
    found: dict[str, dict[str, Any]] = {}
    for name, (_, _, twin, _, _) in CONTENDERS.items():
        if given.only and not any(part in name for part in given.only):
            continue
        if not (twins / twin / "config.json").exists():
            from fixtures.make.twin import make

            make(twin, twins / twin, given.layers)
        command = [sys.executable, "-m", "benchmarks.speed.gpu", "--one", name, "--twins", str(twins)]
        start = time.perf_counter()
        found[name] = apart(command)
        print(f"{time.perf_counter() - start:6.1f} s  {name}: {json.dumps(found[name])}", flush=True)
        if given.out:  # after each contender, because a GPU lease may end early
            given.out.write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
