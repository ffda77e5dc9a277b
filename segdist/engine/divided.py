"""Tensors of which each worker may hold a part (torch's DTensor): whole, the own part, and gradients of both kinds.

Most trials divide nothing, and do not import what only divided tensors need: half a CPU-second and 50 MB.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.optimizer import StateDict

from segdist.engine.workers import Workers


def is_divided(value: Tensor) -> bool:
    """Whether a worker holds a part of the tensor only."""
    if type(value) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def whole(value: Tensor) -> Tensor:
    """All of a tensor, wherever its parts are; every worker must ask."""
    if not is_divided(value):
        return value
    joined: Tensor = value.full_tensor()  # type: ignore[attr-defined]  # of a DTensor
    return joined


def mine(value: Tensor) -> Tensor:
    """The part of a tensor that this worker holds, in the same memory."""
    if not is_divided(value):
        return value
    local: Tensor = value.to_local()  # type: ignore[attr-defined]
    return local


def divided_as(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every worker has, divided as another one of its shape is."""
    if not is_divided(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_states(state: StateDict) -> StateDict:
    """The state dict of an optimiser with whole tensors on the CPU, as one worker alone would have it."""
    whole_of = {
        number: {name: whole(value).cpu() if isinstance(value, Tensor) else value for name, value in of.items()}
        for number, of in state["state"].items()
    }
    return {**state, "state": whole_of}


def divided_states(state: StateDict, optimizer: torch.optim.Optimizer) -> StateDict:
    """What `whole_states` gave, divided as the parameters of an optimiser are now."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    divided = {
        number: {
            name: divided_as(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in of.items()
        }
        for number, of in state["state"].items()
    }
    return {**state, "state": divided}


def forget_unused(parameters: Sequence[nn.Parameter], workers: Workers) -> None:
    """Leave divided parameters that a step has not used on any worker without a gradient, as where nothing is divided.

    FSDP gives them a gradient of zeros, with which AdamW would decay them and go on with their momentum.

    Args:
        parameters: that a step may leave unused; the same on every worker.
        workers: all of them.
    """
    divided = [p for p in parameters if is_divided(p) and p.grad is not None]
    if not divided:
        return
    used = workers.totals([float(mine(p.grad).any()) for p in divided if p.grad is not None])
    for parameter, workers_with in zip(divided, used, strict=True):
        if not workers_with:
            parameter.grad = None


def average_scalars(parameters: Sequence[nn.Parameter], workers: Workers) -> None:
    """Average the gradients of parameters that are not divided, where the others are and so are averaged already."""
    if not any(map(is_divided, parameters)):
        return
    for parameter in parameters:
        if not is_divided(parameter):
            own = [] if parameter.grad is None else [float(parameter.grad)]
            used = workers.gather(own)
            parameter.grad = torch.full_like(parameter, sum(used) / workers.world_size) if used else None


def unscale(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Divide gradients by the scale of their loss; where some are divided and some are not, which torch does not mix.

    Args:
        scaler: of the loss.
        optimizer: that will move the parameters.
        parameters: all of them.
    """
    if not scaler.is_enabled():
        return
    kinds = [[p for p in parameters if is_divided(p) is divided] for divided in (True, False)]
    alike = [optimizer] if not all(kinds) else [torch.optim.SGD(kind, lr=0.0) for kind in kinds]
    for one in alike:
        scaler.unscale_(one)


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Scale gradients down to a norm of at most `most` over all workers; the norm before.

    The one wait for the device in a step.
    """
    kinds = [[p for p in parameters if is_divided(p) is divided] for divided in (True, False)]
    if not kinds[0]:
        return float(nn.utils.clip_grad_norm_(parameters, most))
    norms = [whole(nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds if kind]
    total = torch.stack([norm.float() for norm in norms]).norm()
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, most, total)
    return float(total)
