"""FSDP: the base is divided among the processes of `[launch]`, for one that no GPU holds whole with what training adds.

The trainer and accelerate divide it (`[sft] fsdp = true`, with `fsdp_config` as transformers has it). A base in 4 bits is stored
as `STORED`, since accelerate divides no integers. Before and after training the base is asked on all GPUs together, a few
layers on each, by transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from prism.errors import SpecError
from prism.models.identity import engine
from prism.spec import Spec

# Not half precision, as QLoRA with FSDP's first version had it: torch's `_foreach_copy_` moves bfloat16 by way of float32 and
# makes one of all bit patterns that are no number. So of four weights in a row 1 in 250 lost its bits; first losses were 1 % off.
STORED = torch.float32
# Of `[sft.fsdp_config]`. Others leave the names of weights, or where they lie, other than an adapter is stored by: for
# activation_checkpointing write gradient_checkpointing = true.
OPTIONS = {"auto_wrap_policy", "min_num_params", "reshard_after_forward", "transformer_layer_cls_to_wrap"}


def check(spec: Spec) -> None:
    """Raise SpecError for options that the libraries would leave out in silence, or fail at after the baseline."""
    if spec.sft.get("deepspeed"):
        raise SpecError(
            f"{spec.id}.toml [sft] deepspeed = {spec.sft['deepspeed']!r}: a part of the adapter would be stored; delete it, or "
            f"divide the base with fsdp = true"
        )
    if spec.sharded and (why := _unsupported(spec)):
        raise SpecError(f"{spec.id}.toml [sft] fsdp = {spec.sft['fsdp']!r}: {why}")


def _unsupported(spec: Spec) -> str:
    if engine(spec)["device"] == "cpu":
        return "accelerate divides no base on a CPU; delete it"
    if spec.sft["fsdp"] is not True:
        return "write true; how it is divided is for [sft.fsdp_config]"
    if others := sorted({key.removeprefix("fsdp_") for key in spec.sft.get("fsdp_config", {})} - OPTIONS):
        return f"fsdp_config.{others[0]} is none of {', '.join(sorted(OPTIONS))}; delete it"
    if spec.launch.processes == 1:
        return "there is one process to divide the base among; raise [launch] processes, or delete it"
    if spec.model.load_in_8bit:
        return "bitsandbytes' weights of 8 bits cannot be divided; load_in_4bit, or delete it"
    if spec.image:
        return "a vision-language model is not divided; delete it"
    if spec.sft.get("torch_compile"):
        return "torch_compile compiles the layers of a whole base; delete one of them"
    if "bit" in (name := str(spec.sft.get("optim", ""))) or name.startswith("paged"):
        return f'optim = "{name}" takes no divided weights; write optim = "adamw_torch_fused"'
    return ""


@contextmanager
def quantizing_on_the_gpu() -> Iterator[None]:
    """Have the weights that wait on the CPU quantized by this process's GPU, one at a time.

    A CPU rounds some scales otherwise, so the processes would train another base than the one that is asked: first losses
    were 1 % apart. It also takes a minute for what a GPU does in seconds.
    """
    from bitsandbytes import functional

    quantize = functional.quantize_4bit

    def on_the_gpu(weight: torch.Tensor, *given: Any, **named: Any) -> tuple[torch.Tensor, Any]:
        quantized, state = quantize(weight.cuda(), *given, **named)
        state.to("cpu")
        return quantized.cpu(), state

    functional.quantize_4bit = on_the_gpu
    try:
        yield
    finally:
        functional.quantize_4bit = quantize


def keep_precision(trainer: Any) -> None:
    """Have FSDP change no number, as one process does; autocast rounds what a layer is given, as it does there.

    By accelerate's policy gradients are added up in half precision, and the loss is told in it.
    """
    trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = None


def gathered(model: Any) -> dict[str, Any]:
    """The trained weights of all processes, whole, on the CPU; each process has to ask for them."""
    from torch.distributed.tensor import DTensor

    trained = ((name, each.detach()) for name, each in model.named_parameters() if each.requires_grad)
    return {name: (each.full_tensor() if isinstance(each, DTensor) else each).cpu() for name, each in trained}
