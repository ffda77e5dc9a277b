"""Base weights of four bits, by bitsandbytes: NF4 in blocks of 64 (Dettmers et al. 2023, section 3)."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from segdist.core import extras
from segdist.core.cards import has_card
from segdist.core.errors import SpecError


def quantise(network: nn.Module, names: Sequence[str]) -> None:
    """Replace linear layers by frozen layers of four bits, in place, on the GPU.

    Raises:
        SpecError: there is no GPU, or bitsandbytes is not installed.
    """
    if not can_quantise():
        raise SpecError(
            "`train.adapter.kind: qlora` needs a GPU, but this worker has none. "
            "Let it have one (`resources.gpus_per_worker`), or use `lora`."
        )
    try:
        bnb = importlib.import_module("bitsandbytes")
    except ModuleNotFoundError as error:
        raise SpecError(extras.needs("`train.adapter.kind: qlora`", "bitsandbytes", "peft")) from error
    device = torch.device("cuda" if has_card() else "cpu")
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        small = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
            quant_type="nf4",
        )
        small.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        if layer.bias is not None:
            small.bias = nn.Parameter(layer.bias.data, requires_grad=False)
        parent, _, child = name.rpartition(".")
        network.get_submodule(parent).add_module(child, small.to(device))
    network.is_loaded_in_4bit = True  # type: ignore[assignment]  # what peft looks for


def can_quantise() -> bool:
    """Whether there is a GPU for this work."""
    return has_card()


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer holds weights of four bits."""
    return isinstance(module, nn.Linear) and hasattr(module.weight, "quant_state")


def restored(layer: nn.Module) -> nn.Linear:
    """A float32 layer with the values that the four bits stand for."""
    functional = importlib.import_module("bitsandbytes.functional")
    assert isinstance(layer, nn.Linear)
    packed: Any = layer.weight
    weight = functional.dequantize_4bit(packed.data, packed.quant_state).float()
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device=weight.device)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    return plain
