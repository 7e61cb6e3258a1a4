"""Do answers of the nano model depend on the path: the captured step or transformers' `generate`?

    python -m benchmarks.speed.parity

The untrained base gives greedy answers of at most 24 tokens to held-out questions of three phases (labels in phase 1,
sentences in phase 2), in float32 and bfloat16; each path is compared with `generate` on one question at a time. It runs
on a CPU, too, but does not capture the step there.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy
from tabulate import tabulate

from prism.verdicts.intervals import wilson

ROOT = Path(__file__).resolve().parents[2]
NEW_TOKENS = 24
sys.modules["unsloth"] = None  # type: ignore[assignment]  # its patches would change the model


def cut(ids: list[int], ends: list[int]) -> list[int]:
    return ids[: next((n for n, token in enumerate(ids) if token in ends), len(ids))]


def generated(base: Any, encoded: list[list[int]], batch: int) -> list[list[int]]:
    """Token ids by `generate`, `batch` questions at a time."""
    from prism.models import reading

    found: list[list[int]] = []
    for start in range(0, len(encoded), batch):
        prompt = reading.pad(base, encoded[start : start + batch])
        whole = base.model.generate(**prompt, do_sample=False, max_new_tokens=NEW_TOKENS)
        found += whole[:, prompt["input_ids"].shape[1] :].tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.parity", description=__doc__)
    parser.add_argument("--questions", type=int, default=500, help="the maximum per phase")
    given = parser.parse_args()

    import torch
    from torch.nn.attention import sdpa_kernel

    from prism.models import decode, generate, load
    from prism.rows.examples import load_examples
    from prism.spec import load_spec
    from prism.tasks import load_task

    rows = []
    for dtype, phase in product(("float32", "bfloat16"), ("phase1", "phase2", "phase3")):
        spec = load_spec(ROOT / "benchmarks" / "specs" / phase / "nano.toml")
        sft = {key: value for key, value in spec.sft.items() if key != "use_cpu"}
        table = spec.model.model_copy(update={"dtype": dtype})
        asked = spec.model_copy(update={"model": table, "sft": sft, "generate": {"max_new_tokens": NEW_TOKENS}})
        held_out = load_examples(asked, load_task(asked), ROOT)[1][: given.questions]
        base = load.load(asked, ROOT)
        encoded = sorted(generate.encode_all(base, held_out), key=len, reverse=True)
        ends = numpy.atleast_1d(base.model.generation_config.eos_token_id).tolist()
        with torch.no_grad(), sdpa_kernel(generate.ATTENTION):
            alone = [cut(ids, ends) for ids in generated(base, encoded, 1)]
            paths = {
                "captured step": decode.Decoder(base.model, len(encoded), len(encoded[0]) + NEW_TOKENS).answer(
                    encoded, NEW_TOKENS, ends
                ),
                "generate, batch 128": generated(base, encoded, 128),
            }
        for name, found in paths.items():
            same = sum(cut(ids, ends) == expected for ids, expected in zip(found, alone))
            low, high = wilson(same, len(alone))
            share, interval = f"{same / len(alone):.1%}", f"{low:.1%} to {high:.1%}"
            rows.append([dtype, phase, name, f"{same} of {len(alone)}", share, interval])
    head = ["precision", "questions", "path", "the same as one at a time", "share", "95 % interval"]
    print(tabulate(rows, head, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
