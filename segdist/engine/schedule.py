"""The optimiser and its learning rate."""

import math
from collections.abc import Callable, Iterable, Sequence
from inspect import unwrap

import torch
from torch import nn

from segdist.adapters.freezing import blocks_of
from segdist.core.errors import SpecError
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


def adamw(
    network: nn.Module,
    phase: PhaseSpec,
    *,
    weight_decay: float,
    encoder: Iterable[str],
    layer_decay: float = 1.0,
    blocks: Sequence[str] = (),
) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019) over what is trained; no decay on vectors, smaller rates in the encoder.

    Args:
        network: its parameters with `requires_grad` are trained.
        phase: the rates.
        weight_decay: relative to the rate.
        encoder: name prefixes of the modules that get `encoder_lr_factor`.
        layer_decay: rate of a block of the encoder relative to that of the block after it.
        blocks: the blocks, as `Family.encoder_blocks` names them.

    Raises:
        SpecError: rates are to fall from block to block, but the encoder has none.
    """
    prefixes = tuple(encoder)
    below = _layers_below(network, prefixes, blocks) if layer_decay < 1 else {}
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            kind = name.startswith(prefixes), below.get(name, 0), parameter.ndim > 1
            groups.setdefault(kind, []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "lr": phase.lr * (phase.encoder_lr_factor if in_encoder else 1.0) * layer_decay**depth,
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (in_encoder, depth, decays), parameters in groups.items()
        ]
    )


def _layers_below(network: nn.Module, encoder: tuple[str, ...], patterns: Sequence[str]) -> dict[str, int]:
    """How many layers each parameter of the encoder lies below the head: 1 in its last block (Bao et al. 2022, BEiT).

    What comes before the first block, as embeddings, is a layer of its own; what comes after a block goes with it.
    """
    blocks = blocks_of(network, patterns)
    if not blocks:
        raise SpecError(
            "`train.layer_decay` must be 1 for an encoder without blocks that segdist knows; "
            "use `train.encoder_lr_factor`"
        )
    below, here = {}, len(blocks) + 1
    for name, _ in network.named_parameters():  # in the order in which the layers were made
        if name.startswith(encoder):
            above = (len(blocks) - k for k, block in enumerate(blocks) if name.startswith(f"{block}."))
            here = next(above, here)
            below[name] = here
    return below


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
