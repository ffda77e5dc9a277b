"""What of a model is trained is what the sweep asks for, and LoRA starts from the base model."""

from typing import Any

import pytest
import torch
from torch import nn

from segdist import adapters, registry
from segdist.errors import SpecError
from segdist.plugins import Family, ModelOptions
from segdist.spec import AdapterSpec

UNET: Family = registry.load("models", "unet_cbam").FAMILY


class Attending(nn.Module):
    """An encoder with attention, a neck with a layer named as one inside the attention, a part frozen at build."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "linear": nn.Linear(8, 8)})
        self.neck = nn.ModuleDict({"out_proj": nn.Linear(8, 8), "norm": nn.LayerNorm(8)})
        self.head = nn.Linear(8, 2)
        self.head.bias.requires_grad = False


FAMILY = Family(
    options=ModelOptions,
    debug={},
    losses={},
    encoder=("encoder.",),
    lora_targets=("linear",),
    lora_trains=("head.",),
)


def unet() -> Any:
    torch.manual_seed(0)
    options = UNET.options.model_validate({"image_size": 32, "width": 8, "depth": 2})
    return registry.load_network("unet_cbam").build(options, ("roof",)).eval()


def trained(network: nn.Module) -> set[str]:
    return {name for name, p in network.named_parameters() if p.requires_grad}


def test_full_trains_all_but_what_was_frozen_at_build() -> None:
    network = Attending()
    adapters.apply(network, FAMILY, AdapterSpec(kind="full"))
    assert trained(network) == {name for name, _ in network.named_parameters()} - {"head.bias"}


def test_a_frozen_encoder_leaves_everything_else_to_train() -> None:
    network = Attending()
    adapters.apply(network, FAMILY, AdapterSpec(kind="frozen_encoder"))
    assert trained(network) == {"neck.out_proj.weight", "neck.out_proj.bias", "neck.norm.weight", "neck.norm.bias"} | {
        "head.weight"
    }


def test_lora_trains_its_own_matrices_and_the_head() -> None:
    network = Attending()
    adapters.apply(network, FAMILY, AdapterSpec(kind="lora", rank=2))
    assert trained(network) == {
        "encoder.linear.lora_A.segdist.weight",
        "encoder.linear.lora_B.segdist.weight",
        "head.weight",  # its bias was frozen at build and stays so
    }


def test_layers_inside_multihead_attention_get_no_lora() -> None:
    network = Attending()
    adapters.apply(network, FAMILY, AdapterSpec(kind="lora", rank=2, targets=("out_proj",)))
    assert {n for n in trained(network) if "lora_" in n} == {
        "neck.out_proj.lora_A.segdist.weight",
        "neck.out_proj.lora_B.segdist.weight",
    }


def test_a_target_that_is_only_inside_multihead_attention_ends_no_layer() -> None:
    network = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "linear": nn.Linear(8, 8)})
    with pytest.raises(SpecError, match="`out_proj`, which ends no layer"):
        adapters.apply(network, FAMILY, AdapterSpec(kind="lora", targets=("out_proj",)))


def test_a_target_that_ends_no_layer_is_named_with_the_nearest_that_does() -> None:
    with pytest.raises(SpecError, match=r"`train\.adapter\.targets` names `conv3`.*Did you mean `conv[12]`\?"):
        adapters.apply(unet(), UNET, AdapterSpec(kind="lora", targets=("conv1", "conv3")))


def test_a_target_matches_whole_parts_of_a_name() -> None:
    with pytest.raises(SpecError, match="`onv1`"):
        adapters.apply(unet(), UNET, AdapterSpec(kind="lora", targets=("onv1",)))
    network = unet()
    adapters.apply(network, UNET, AdapterSpec(kind="lora", targets=("stem.conv1",)))
    assert {n for n in trained(network) if "lora_A" in n} == {"encoder.stem.conv1.lora_A.segdist.weight"}


def test_lora_begins_with_the_output_of_the_base_model() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    network = unet()
    with torch.inference_mode():
        before = network.logits(images)
    adapters.apply(network, UNET, AdapterSpec(kind="lora", rank=4, dropout=0.0))
    with torch.inference_mode():
        after = network.logits(images)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
        moved = network.logits(images)
    assert torch.equal(before, after)
    assert not torch.allclose(before, moved)


def test_the_number_of_trained_parameters_counts_values_not_tensors() -> None:
    network = Attending()
    everything = sum(p.numel() for p in network.parameters())
    assert adapters.trained_parameters(network) == everything - 2
    adapters.apply(network, FAMILY, AdapterSpec(kind="lora", rank=2))
    assert adapters.trained_parameters(network) == 2 * (8 + 8) + 8 * 2
