"""The optimiser and its learning rate."""

import math
from collections.abc import Callable, Iterable
from inspect import unwrap

import torch
from torch import nn

from segdist.core.spec import PhaseSpec


class AdamW(torch.optim.AdamW):
    """torch's AdamW, and nothing else of torch.

    torch wraps these methods to keep its compiler away from them, and imports the compiler to say so: 870 modules, as
    long as importing torch itself, at the start of every trial. We do not compile optimisers.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def adamw(network: nn.Module, phase: PhaseSpec, *, weight_decay: float, encoder: Iterable[str]) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019) over what is trained; no decay on vectors, a smaller rate for the encoder.

    Args:
        network: its parameters with `requires_grad` are trained.
        phase: the rates.
        weight_decay: relative to the rate.
        encoder: name prefixes of the modules that get `encoder_lr_factor`.
    """
    prefixes = tuple(encoder)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            in_encoder = name.startswith(prefixes)
            groups.setdefault((in_encoder, parameter.ndim > 1), []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "lr": phase.lr * (phase.encoder_lr_factor if in_encoder else 1.0),
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (in_encoder, decays), parameters in groups.items()
        ]
    )


def rates(optimizer: torch.optim.Optimizer, phase: PhaseSpec, *, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear rise over the first `warmup` share of the steps, then half a cosine or a line to zero, or no fall."""
    rising = max(1, round(steps * phase.warmup))
    fall = _FALLS[phase.schedule]

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return fall(min(1.0, (step - rising) / max(1, steps - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


_FALLS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda _: 1.0,
}
