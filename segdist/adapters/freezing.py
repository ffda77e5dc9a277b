"""Adapters that add nothing: they choose what of the model is trained."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from segdist.core.errors import SpecError, did_you_mean
from segdist.core.plugins import Family
from segdist.core.spec import AdapterSpec
from segdist.core.text import counted


def freeze_encoder(network: nn.Module, family: Family, adapter: AdapterSpec) -> None:  # noqa: ARG001 - one signature
    """Train all but the encoder."""
    for name, parameter in network.named_parameters():
        if name.startswith(family.encoder):
            parameter.requires_grad = False


def freeze_first_blocks(network: nn.Module, family: Family, adapter: AdapterSpec) -> None:
    """Train all but the part of the encoder before its last `blocks` blocks.

    Raises:
        SpecError: the encoder has fewer blocks.
    """
    blocks = blocks_of(network, family.encoder_blocks)
    if len(blocks) < adapter.blocks:
        raise SpecError(
            f"`train.adapter.blocks` must be at most the {counted(len(blocks), 'block')} of the encoder, "
            f"but got {adapter.blocks}"
        )
    first = blocks[-adapter.blocks]
    for name, parameter in network.named_parameters():  # in the order in which the layers were made
        if name.startswith(f"{first}."):
            return
        if name.startswith(family.encoder):
            parameter.requires_grad = False


def train_norms(network: nn.Module, family: Family, adapter: AdapterSpec) -> None:
    """Train scales and shifts of the norms, and the heads."""
    norms = {
        f"{name}.{inner}"
        for name, module in network.named_modules()
        if _is_norm(module)
        for inner, _ in module.named_parameters(recurse=False)
    }
    _train_only(network, family, adapter, lambda name: name in norms)


def train_biases(network: nn.Module, family: Family, adapter: AdapterSpec) -> None:
    """BitFit (Ben Zaken et al. 2022): train the biases, and the heads."""
    _train_only(network, family, adapter, lambda name: name.rpartition(".")[2].endswith("bias"))


def heads_of(network: nn.Module, family: Family, adapter: AdapterSpec) -> set[str]:
    """Names of the parameters of the heads, and of the parts named in `beside`, that are trained beside an adapter.

    Raises:
        SpecError: `beside` names no part of the model.
    """
    free = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    heads = {name for name in free if adapter.heads and name.startswith(family.lora_trains)}
    for part in adapter.modules_to_save:
        found = {name for name in free if f".{part}." in f".{name}"}
        if not found:
            known = {piece for name in free for piece in name.split(".")[:-1] if not piece.isdigit()}
            raise SpecError(
                f"`train.adapter.modules_to_save` names `{part}`, no part of the model. {did_you_mean(part, known)}"
            )
        heads |= found
    return heads


def blocks_of(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the modules that match one of the patterns part by part, in the order of the network."""
    return [name for name, _ in network.named_modules() if any(_matches(name, pattern) for pattern in patterns)]


def _train_only(network: nn.Module, family: Family, adapter: AdapterSpec, chosen: Callable[[str], bool]) -> None:
    heads = heads_of(network, family, adapter)
    if not any(p.requires_grad and chosen(name) for name, p in network.named_parameters()):
        raise SpecError(f"`train.adapter.kind: {adapter.kind}` must find something to train, but the model has none")
    for name, parameter in network.named_parameters():
        if name not in heads and not chosen(name):
            parameter.requires_grad = False


def _is_norm(module: nn.Module) -> bool:
    """Also norms of other libraries, which have no class in common but a name."""
    own = list(module.parameters(recurse=False))
    return "norm" in type(module).__name__.lower() and bool(own) and all(p.ndim <= 1 for p in own)


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
