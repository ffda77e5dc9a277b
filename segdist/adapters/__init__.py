"""What of a model is trained: everything, parts of it, or small additions beside frozen weights; and what that weighs.

`apply` puts an adapter in place, `merge` folds it into the weights again.
"""

from collections.abc import Callable, Collection

from torch import Tensor, nn

from segdist.adapters import conv_lora, freezing, lowrank
from segdist.adapters.lowrank import ADAPTER, lora_scalings, merge
from segdist.core.errors import SpecError
from segdist.core.plugins import Family
from segdist.core.spec import AdapterKind, AdapterSpec

__all__ = [
    "ADAPTER",
    "apply",
    "balance_loss",
    "bytes_of",
    "lora_scalings",
    "merge",
    "parameters",
    "trained_names",
    "trained_parameters",
]

_Apply = Callable[[nn.Module, Family, AdapterSpec], None]
_APPLY: dict[AdapterKind, _Apply] = {
    "frozen_encoder": freezing.freeze_encoder,
    "partial": freezing.freeze_first_blocks,
    "layernorm": freezing.train_norms,
    "bitfit": freezing.train_biases,
    "lora": lowrank.add_lora,
    "dora": lowrank.add_lora,
    "qlora": lowrank.add_lora,
    "conv_lora": lowrank.add_conv_lora,
}


def apply(network: nn.Module, family: Family, adapter: AdapterSpec) -> None:
    """Freeze what is not trained and put the adapter's layers in place; parameters frozen at build stay frozen.

    Args:
        network: changed in place.
        family: declares the encoder, its blocks, the layers LoRA touches, and the heads that are trained beside it.
        adapter: what the sweep asks for.

    Raises:
        SpecError: the family does not support the kind, nothing matches, or what the kind needs is not there.
    """
    if adapter.kind not in family.adapters:
        raise SpecError(
            f"`train.adapter.kind` must be one that the family supports ({', '.join(family.adapters)}), "
            f"but got {adapter.kind}"
        )
    if adapter.kind != "full":
        _APPLY[adapter.kind](network, family, adapter)


def trained_names(network: nn.Module) -> frozenset[str]:
    """Names of the parameters that the optimiser moves."""
    return frozenset(name for name, p in network.named_parameters() if p.requires_grad)


def trained_parameters(network: nn.Module) -> int:
    """Number of values that the optimiser moves."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def parameters(network: nn.Module) -> int:
    """Number of values in all parameters; those of a quantised layer are counted as if it were not."""
    return sum(_values_in(p) for p in network.parameters())


def bytes_of(network: nn.Module, names: Collection[str]) -> int:
    """Bytes of some of the parameters: what an adapter weighs on disk without its base."""
    return sum(p.nbytes for name, p in network.named_parameters() if name in names)


def balance_loss(network: nn.Module) -> Tensor | None:
    """What the gates of Conv-LoRA add to the loss of the step just computed; None without Conv-LoRA."""
    losses = [m.take_balance() for m in network.modules() if isinstance(m, conv_lora.ConvLora)]
    found = [loss for loss in losses if loss is not None]
    return conv_lora.BALANCE_WEIGHT * sum(found[1:], start=found[0]) / len(found) if found else None


def _values_in(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)  # of bitsandbytes: two values a byte
    return int(state.shape.numel()) if state is not None else parameter.numel()
