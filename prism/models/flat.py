"""One flat parameter for all matrices of an adapter, so that a step launches no kernel and runs no Python for each.

The matrices and their gradients are views of it. Clipping, an optimizer and zeroing take one kernel where they took
hundreds, which took longer than the rest of a short step. bitsandbytes' 8-bit AdamW quantizes its state in blocks of
256 numbers: matrices of whole blocks laid end to end have the same blocks, so the steps are the same to the bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

BLOCK, SMALLEST = 256, 4_096  # bitsandbytes keeps the state of smaller tensors in 32 bits
EIGHT_BITS = ("adamw_8bit", "adamw_bnb_8bit")  # values of [sft] optim
EACH_NUMBER = ("adamw_torch", "adamw_torch_fused", "sgd")  # optimizers that treat each number by itself


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that train, those whose state bitsandbytes keeps in 32 bits last."""
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sorted(found, key=lambda parameter: parameter.numel() < SMALLEST)


def attach(parameters: list[torch.nn.Parameter], flat: torch.nn.Parameter) -> None:
    """Make parameters and their gradients views of a flat one, again after a wrapper gave them memory of their own."""
    sizes = [parameter.numel() for parameter in parameters]
    assert flat.grad is not None
    for parameter, part, slope in zip(parameters, flat.detach().split(sizes), flat.grad.split(sizes), strict=True):
        parameter.data, parameter.grad = part.view_as(parameter), slope.view_as(parameter)


def renew(model: Any, parameters: list[torch.nn.Parameter], by: list[torch.nn.Parameter]) -> None:
    """Put other parameters into a model's modules in place of `parameters`, in the same order."""
    place = {id(old): new for old, new in zip(parameters, by, strict=True)}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in place:
                module._parameters[name] = place[id(parameter)]


class OwnMean(TrainerCallback):
    """Takes the trainer's DistributedDataParallel out of a step that adds up the gradients of all processes itself.

    It gives parameters memory of their own, and nodes that add up their gradients on another stream than the one that a
    graph is captured on. So the modules get parameters that it does not know. The trainer clips and zeroes through it.
    """

    def __init__(self, trainer: Any, step: Any) -> None:
        self.trainer, self.step = trainer, step

    def on_train_begin(self, *_: object, **__: object) -> None:
        if not isinstance(wrapped := self.trainer.model_wrapped, DistributedDataParallel):
            return
        model, step = self.trainer.model, self.step
        attach(step.parameters, step.flat)
        own = [torch.nn.Parameter(parameter.detach()) for parameter in step.parameters]
        renew(model, step.parameters, own)
        step.parameters = own
        shown = {name: model.__dict__[name] for name in ("parameters", "zero_grad")}
        wrapped.__dict__.update(shown, forward=model.forward)


@contextmanager
def flattened(model: Any) -> Iterator[torch.nn.Parameter]:
    """A parameter that a PEFT model's trained ones are views of, and their gradients of its own.

    All have one dtype and device. Within, it is the model's only parameter for a trainer, which asks for them in each
    step and would walk through thousands of modules. Afterwards each has its own memory again.
    """
    parameters, train, number = trained(model), model.train, model.num_parameters(exclude_embeddings=True)
    flat = torch.nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    gradient = flat.grad = torch.zeros_like(flat)
    attach(parameters, flat)

    def only(recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        yield flat

    def zero(set_to_none: bool = True) -> None:
        gradient.zero_()

    def switch(mode: bool = True) -> Any:
        return model if mode == model.training else train(mode)

    def count(**_: Any) -> int:
        return int(number)

    train()
    shown: dict[str, Any] = {"parameters": only, "zero_grad": zero, "train": switch, "num_parameters": count}
    model.__dict__.update(shown)
    try:
        yield flat
    finally:
        for name in shown:
            del model.__dict__[name]
        for parameter in parameters:
            parameter.data, parameter.grad = parameter.detach().clone(), None


def set_optimizer(trainer: Any, flat: torch.nn.Parameter, parameters: list[torch.nn.Parameter]) -> bool:
    """Give a trainer an optimizer of the flat parameter, if that changes no step; says whether it did.

    The trainer decays matrices only.
    """
    options = trainer.args
    large = [part.numel() for part in parameters if part.numel() >= SMALLEST]
    in_blocks = options.optim in EIGHT_BITS and all(size % BLOCK == 0 for size in large)
    if options.optim not in EACH_NUMBER and not in_blocks:
        return False
    if options.weight_decay and any(part.ndim < 2 for part in parameters):
        return False
    parts = [flat]
    if in_blocks and sum(large) < flat.numel():
        parts = [torch.nn.Parameter(part) for part in flat.detach().tensor_split([sum(large)])]
        attach(parts, flat)
        _keep_32_bits(parts[1])
    made, arguments = trainer.get_optimizer_cls_and_kwargs(options, trainer.model)
    held = [part for part in parts if part.numel()]
    trainer.optimizer = made([{"params": held, "weight_decay": options.weight_decay}], **arguments)
    return True


def _keep_32_bits(parameter: torch.nn.Parameter) -> None:
    """Let bitsandbytes keep the state of a parameter in 32 bits, however large it is.

    Its manager knows parameters by their `id`, which another one may get, so it has to forget this one.
    """
    from bitsandbytes.optim import GlobalOptimManager

    manager = GlobalOptimManager.get_instance()
    manager.override_config(parameter, "optim_bits", 32)
    weakref.finalize(parameter, manager.pid2config.pop, id(parameter), None)
