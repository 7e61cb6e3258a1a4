"""One adapter over several processes: `[launch] processes = 2` trains by data parallelism on so many GPUs, or on a CPU.

transformers' trainer divides each batch among the processes that torch's launcher starts (`python -m
torch.distributed.run`), so this module is started, too. The rows and the steps are those of one process, in the same
order: each takes its share of the recipe's `per_device_train_batch_size`. A training that was killed starts again.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prism.devices import cuda_devices
from prism.errors import ModelError, PrismError, SpecError
from prism.models import parity
from prism.models import train as training
from prism.models.cost import peak_memory_gib
from prism.models.load import Base, load
from prism.models.own_steps import CannotGoOn
from prism.progress import CONSOLE, Advance
from prism.rows import Example
from prism.spec import Spec

# ruff: isort: split
# After prism.models.load, which imports Unsloth if PRISM uses it.
import torch

# In the adapter's folder while it is trained: what to do, what was measured, why nothing can be, why to go plainly.
ORDER, NOTES, REFUSED, PLAIN = "order.json", "notes.json", "refused.txt", "plain.txt"
MODULE = "prism.models.launch"  # what each process runs
EVENT = "prism: "  # begins what the first process says of its progress


def check(spec: Spec) -> None:
    """Raise SpecError unless batches can be shared, and there is a GPU for each process, or the spec trains on a CPU."""
    wanted, batch = spec.launch.processes, spec.sft.get("per_device_train_batch_size", 8)
    if batch % wanted:
        raise SpecError(
            f"{spec.id}.toml [launch] processes = {wanted}: cannot share [sft] per_device_train_batch_size = {batch} evenly; "
            f"change either"
        )
    if wanted == 1 or spec.sft.get("use_cpu") or not cuda_devices():
        return
    count = "import torch; print(torch.cuda.device_count())"  # this process sees only its own GPU
    found = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, env=_visible(), check=False)
    there = int(found.stdout) if found.stdout.strip().isdecimal() else 0
    if there < wanted:
        raise SpecError(
            f"{spec.id}.toml [launch] processes = {wanted}: {there} of its GPUs may be used here; lower it, or run on "
            f"more GPUs and without -n"
        )


def _visible() -> dict[str, str]:
    """This process's environment, with the GPUs that it could see before it took one (`prism.devices.use_one_gpu`)."""
    environment = dict(os.environ)
    if "PRISM_GPUS" in environment and not environment["PRISM_GPUS"]:
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    elif "PRISM_GPUS" in environment:
        environment["CUDA_VISIBLE_DEVICES"] = environment["PRISM_GPUS"]
    return environment


def train(
    base: Base,
    examples: Sequence[Example],
    seed: int,
    folder: Path,
    advance: Advance = lambda _, __="": None,
    log: training.Log = lambda step, values: None,
    kept: training.Kept = lambda folder: None,
    probed: Sequence[Example] = (),
) -> dict[str, Any]:
    """`prism.models.train.train` in the processes of `[launch]`; if they are several, `base.model` gets no adapter.

    They then leave its logits after the questions `probed` for `prism.models.parity.check`.

    If they divide the base, `base.model` is None afterwards.
    Raises ModelError with what a process said last if one fails.
    """
    spec = base.spec
    if spec.launch.processes == 1:
        return training.train(base, examples, seed, folder, advance, log, kept)
    order = {
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "root": str(base.root),
        "source": base.source,
        "seed": seed,
        "examples": [asdict(example) for example in examples],
        "probed": [asdict(example) for example in probed[: parity.PROBES]],
    }
    (folder / ORDER).write_text(json.dumps(order, default=str), encoding="utf-8")
    if spec.sharded:  # the processes need the memory of all GPUs; `LazyBase.load` loads the base again
        base.model = None
        gc.collect()
        torch.cuda.empty_cache()
    environment, why = _visible(), {}
    code, done, last = _run(folder, spec.launch.processes, environment, advance, log)
    if code and (folder / PLAIN).exists():
        why = {"why": (folder / PLAIN).read_text(encoding="utf-8")}
        CONSOLE.say(f"{spec.id}: training starts again without the captured step: {why['why']}")
        advance(-done)
        code, done, last = _run(folder, spec.launch.processes, environment | {"PRISM_ENGINE": "plain"}, advance, log)
    if code and (folder / REFUSED).exists():
        raise ModelError((folder / REFUSED).read_text(encoding="utf-8"))
    if code:
        raise ModelError(
            f"{spec.id}: training in {spec.launch.processes} processes ended with code {code} ({last}); try [launch] "
            f"processes = 1"
        )
    notes = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    for name in (ORDER, NOTES, PLAIN):
        (folder / name).unlink(missing_ok=True)
    training.settle_config(spec, folder / "adapter_config.json")
    return notes | why | {"processes": spec.launch.processes}


def _run(
    folder: Path, processes: int, environment: Mapping[str, str], advance: Advance, log: training.Log
) -> tuple[int, int, str]:
    """Run the processes. Returns the exit code, the steps that were done, and what was said last, of an error if any."""
    threads = max(1, torch.get_num_threads() // processes)  # the launcher would give each one thread
    environment = {"OMP_NUM_THREADS": str(threads)} | dict(environment)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", MODULE, str(folder)]
    last: deque[str] = deque(["it said nothing"], maxlen=30)
    done = 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", env=environment
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(EVENT):
                    event = json.loads(line.removeprefix(EVENT))
                    if "values" in event:
                        log(event["step"], event["values"])
                    else:
                        advance(event["steps"], event["live"])
                        done += event["steps"]
                elif line.strip():
                    last.append(line.strip())
        except BaseException:  # Ctrl-C, or a screen that is gone: nothing goes on training
            process.terminate()
            raise
    return process.returncode, done, next((line for line in last if "Error" in line), last[-1])


def main(folder: Path) -> None:
    """One of the processes; only the first writes."""
    first, local = os.environ["RANK"] == "0", int(os.environ["LOCAL_RANK"])
    order = json.loads((folder / ORDER).read_text(encoding="utf-8"))
    spec = _share(Spec.model_validate_json(json.dumps(order["spec"])))
    examples, probed = (
        [
            Example(**each | {"messages": tuple(each["messages"]), "images": tuple(map(Path, each["images"]))})
            for each in order[part]
        ]
        for part in ("examples", "probed")
    )

    def say(**event: Any) -> None:
        if first:
            print(EVENT + json.dumps(event), flush=True)

    try:
        if not spec.sft.get("use_cpu") and torch.cuda.is_available():
            torch.cuda.set_device(local)
        base = load(spec, Path(order["root"]), lambda _: None, order["source"])
        notes = training.train(
            base,
            examples,
            order["seed"],
            folder,
            lambda steps, live="": say(steps=steps, live=live),
            lambda step, values: say(step=step, values=dict(values)),
        )
        if probed:
            parity.keep_logits(base, probed, folder, write=first)
    except CannotGoOn as reason:  # in one of them; the launcher then ends the others
        (folder / PLAIN).write_text(str(reason), encoding="utf-8")
        raise SystemExit(1) from None
    except PrismError as error:
        (folder / REFUSED).write_text(str(error), encoding="utf-8")
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if first:
        notes["peak_memory_gib"] = peak_memory_gib()
        (folder / NOTES).write_text(json.dumps(notes), encoding="utf-8")


def _share(spec: Spec) -> Spec:
    """The spec of one process: its share of each batch, and no checkpoints, from which nothing would resume."""
    batch = spec.sft.get("per_device_train_batch_size", 8) // spec.launch.processes
    sft = spec.sft | {"per_device_train_batch_size": batch, "save_strategy": "no"}
    return spec.model_copy(update={"sft": sft})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
