"""What of a model is trained: everything, all but the encoder, or low-rank updates beside the head."""

from collections import Counter
from collections.abc import Sequence

from torch import nn

from segdist.errors import SpecError, did_you_mean
from segdist.plugins import Family
from segdist.spec import AdapterSpec

ADAPTER = "segdist"
"""Name of the adapter inside peft's layers."""


def apply(network: nn.Module, family: Family, adapter: AdapterSpec) -> None:
    """Freeze what is not trained and put the adapter's layers in place; parameters frozen at build stay frozen.

    Args:
        network: changed in place.
        family: declares the encoder, the layers LoRA touches, and those that stay fully trained beside it.
        adapter: what the sweep asks for.

    Raises:
        SpecError: LoRA targets match no layer, or peft is not installed.
    """
    if adapter.kind == "frozen_encoder":
        for name, parameter in network.named_parameters():
            if name.startswith(family.encoder):
                parameter.requires_grad = False
    elif adapter.kind == "lora":
        _add_lora(network, family, adapter)


def trained_parameters(network: nn.Module) -> int:
    """Number of values that the optimiser moves."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _add_lora(network: nn.Module, family: Family, adapter: AdapterSpec) -> None:
    """Low-Rank Adaptation (Hu et al. 2021), by peft, in place."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise SpecError("`train.adapter.kind: lora` needs peft. Install it: pip install 'segdist[lora]'") from error
    targets = _modules(network, adapter.targets or family.lora_targets)
    head = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and name.startswith(family.lora_trains)
    }
    config = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout, target_modules=targets, bias="none"
    )
    inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for parameter in head.values():  # injection froze everything but the adapter
        parameter.requires_grad = True


def _modules(network: nn.Module, endings: Sequence[str]) -> list[str]:
    """Full names of the linear and convolution layers that end in one of the endings.

    `nn.MultiheadAttention` reads its projection's weight without calling the layer, so an adapter there would never
    see a gradient; its layers are left out.
    """
    inside_attention = tuple(
        f"{name}." for name, module in network.named_modules() if isinstance(module, nn.MultiheadAttention)
    )
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not (inside_attention and name.startswith(inside_attention))
    ]
    for ending in endings:
        if not any(_ends(name, ending) for name in layers):
            known = Counter(name.rpartition(".")[2] for name in layers)
            raise SpecError(
                f"`train.adapter.targets` names `{ending}`, which ends no layer. {did_you_mean(ending, known)}"
            )
    return [name for name in layers if any(_ends(name, ending) for ending in endings)]


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
