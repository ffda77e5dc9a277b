"""Low-rank updates beside frozen weights: LoRA, DoRA and QLoRA through peft, Conv-LoRA of our own."""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from segdist.adapters import quantised
from segdist.adapters.conv_lora import ConvLora
from segdist.adapters.freezing import heads_of
from segdist.core import extras
from segdist.core.errors import SpecError, did_you_mean
from segdist.core.plugins import Family
from segdist.core.spec import AdapterSpec

ADAPTER = "segdist"
"""Name of the adapter inside peft's layers."""


def add_lora(network: nn.Module, family: Family, adapter: AdapterSpec) -> None:
    """LoRA (Hu et al. 2021), DoRA (Liu et al. 2024) or QLoRA (Dettmers et al. 2023), in place.

    Raises:
        SpecError: targets match no layer, peft or bitsandbytes is not installed, or there is no GPU for QLoRA.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise SpecError(extras.needs(f"`train.adapter.kind: {adapter.kind}`", "peft")) from error
    targets = _targets(network, family, adapter)
    heads = heads_of(network, family, adapter)
    if adapter.kind == "qlora":
        quantised.quantise(network, _linear_in(network, (*family.encoder, *targets), but=heads))
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets,
        bias="none",
        use_dora=adapter.kind == "dora",
    )
    inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    _train_heads(network, heads)  # injection froze everything but the adapter


def add_conv_lora(network: nn.Module, family: Family, adapter: AdapterSpec) -> None:
    """Conv-LoRA (Zhong et al. 2024) around the linear layers that LoRA would touch, in place.

    Raises:
        SpecError: targets match no linear layer.
    """
    targets = _targets(network, family, adapter, kinds=(nn.Linear,))
    heads = heads_of(network, family, adapter)
    for parameter in network.parameters():
        parameter.requires_grad = False
    for name in targets:
        base = network.get_submodule(name)
        assert isinstance(base, nn.Linear)
        wrapped = ConvLora(
            base, rank=adapter.rank, alpha=adapter.alpha, dropout=adapter.dropout, experts=adapter.experts
        )
        _replace(network, name, wrapped)
    _train_heads(network, heads)


def merge(network: nn.Module) -> None:
    """Fold LoRA, DoRA and QLoRA into the weights, in place: the same outputs without the adapter's layers.

    Base weights of four bits become what they stood for in float32. Conv-LoRA stays as it is: its updates depend on the
    input, so no weights can hold them.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            base: nn.Module = module.get_base_layer()
            if quantised.is_quantised(base):
                merged: nn.Module = quantised.restored(base)
                merged.weight.data += module.get_delta_weight(ADAPTER).to(merged.weight)
            else:
                module.merge(safe_merge=True)
                merged = base
            _replace(network, name, merged)
    for name, module in list(network.named_modules()):
        if quantised.is_quantised(module):
            _replace(network, name, quantised.restored(module))


def lora_scalings(network: nn.Module) -> dict[str, float]:
    """By what the product of two low-rank matrices is multiplied, by the name of the second."""
    second = f".lora_B.{ADAPTER}.weight"
    names = [name for name, _ in network.named_parameters() if name.endswith(second)]
    layers = {name: vars(network.get_submodule(name.removesuffix(second))) for name in names}
    return {name: float(layer["scaling"][ADAPTER]) for name, layer in layers.items()}


def _train_heads(network: nn.Module, heads: set[str]) -> None:
    for name, parameter in network.named_parameters():
        if name in heads:
            parameter.requires_grad = True


def _targets(
    network: nn.Module,
    family: Family,
    adapter: AdapterSpec,
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d),
) -> list[str]:
    """Full names of the layers that end in one of the targets."""
    layers = _layers(network, kinds if adapter.kind != "qlora" else (nn.Linear,))
    endings = adapter.targets or family.lora_targets
    for ending in endings:
        if not any(_ends(name, ending) for name in layers):
            known = Counter(name.rpartition(".")[2] for name in layers)
            raise SpecError(
                f"`train.adapter.targets` names `{ending}`, which ends no layer. {did_you_mean(ending, known)}"
            )
    return [name for name in layers if any(_ends(name, ending) for ending in endings)]


def _layers(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """Names of the layers of these kinds that a network calls.

    `nn.MultiheadAttention` reads its projection's weight without calling the layer, so an adapter there would never
    see a gradient; its layers are left out.
    """
    inside_attention = tuple(
        f"{name}." for name, module in network.named_modules() if isinstance(module, nn.MultiheadAttention)
    )
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, kinds) and not name.startswith(inside_attention)
    ]


def _linear_in(network: nn.Module, prefixes: Sequence[str], *, but: set[str]) -> list[str]:
    """Linear layers below one of the prefixes, without those whose parameters are trained as they are."""
    return [
        name
        for name in _layers(network, (nn.Linear,))
        if name.startswith(tuple(prefixes)) and f"{name}.weight" not in but
    ]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    network.get_submodule(parent).add_module(child, module)


def _ends(name: str, ending: str) -> bool:
    return fnmatchcase(name, ending) or fnmatchcase(name, f"*.{ending}")
