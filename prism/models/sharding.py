"""FSDP: the base is divided among the processes of `[launch]`, for one that no GPU holds whole with what training adds.

The trainer and accelerate divide it (`[sft] fsdp = true`, with `fsdp_config` as transformers has it). A base in 4 bits is stored
as numbers of its compute dtype, since FSDP divides no integers (QLoRA). Before and after training the base is asked on all
GPUs together, a few layers on each, by transformers' `generate`.
"""

from __future__ import annotations

from typing import Any

import torch

from prism.errors import SpecError
from prism.models.identity import engine
from prism.spec import Spec

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


def keep_precision(trainer: Any) -> None:
    """Have gradients added up, and the loss told, in single precision, as one process does; accelerate halves both."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = trainer.accelerator.state.fsdp_plugin
    if plugin.mixed_precision_policy is not None:
        computed = plugin.mixed_precision_policy.param_dtype
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32)


def gathered(model: Any) -> dict[str, Any]:
    """The trained weights of all processes, whole, on the CPU; each process has to ask for them."""
    from torch.distributed.tensor import DTensor

    trained = ((name, each.detach()) for name, each in model.named_parameters() if each.requires_grad)
    return {name: (each.full_tensor() if isinstance(each, DTensor) else each).cpu() for name, each in trained}
