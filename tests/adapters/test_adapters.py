"""What of a model is trained is what the sweep asks for, and LoRA starts from the base model."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from segdist import adapters
from segdist.adapters import quantised
from segdist.adapters.conv_lora import ConvLora
from segdist.core import registry
from segdist.core.errors import SpecError
from segdist.core.plugins import Family, ModelOptions
from segdist.core.spec import AdapterSpec

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
    encoder_blocks=("encoder.blocks.*",),
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora", "qlora", "conv_lora"),
)


class Layered(nn.Module):
    """A patch embedding, four blocks, a neck inside the encoder, and a head; takes (B, h, w, 8) tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "embed": nn.Linear(8, 8),
                "blocks": nn.ModuleList(
                    nn.Sequential(OrderedDict(norm=nn.LayerNorm(8), linear=nn.Linear(8, 8))) for _ in range(4)
                ),
                "neck": nn.Linear(8, 8),
            }
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder["embed"](x)
        blocks: Any = self.encoder["blocks"]
        for block in blocks:
            x = x + torch.relu(block(x))
        out: torch.Tensor = self.head(self.encoder["neck"](x))
        return out


def layered(kind: str, **settings: Any) -> Layered:
    torch.manual_seed(0)
    network = Layered()
    adapters.apply(network, FAMILY, AdapterSpec.model_validate({"kind": kind, "rank": 2, **settings}))
    return network


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def moved(network: nn.Module) -> nn.Module:
    """The network with other values in all that is trained."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


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


def test_partial_freezes_the_encoder_up_to_its_last_blocks() -> None:
    network = layered("partial", blocks=2)
    frozen = {n.rpartition(".")[0] for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"encoder.embed", *(f"encoder.blocks.{n}.{part}" for n in (0, 1) for part in ("norm", "linear"))}


def test_more_blocks_than_there_are_is_refused_with_their_number() -> None:
    with pytest.raises(SpecError, match=r"`train\.adapter\.blocks` must be at most the 4 blocks .* but got 5"):
        layered("partial", blocks=5)


def test_layernorm_trains_norms_and_heads_and_without_heads_norms_alone() -> None:
    norms = {f"encoder.blocks.{n}.norm.{part}" for n in range(4) for part in ("weight", "bias")}
    assert trained(layered("layernorm")) == norms | {"head.weight", "head.bias"}
    assert trained(layered("layernorm", heads=False)) == norms


def test_norms_of_other_libraries_are_found_by_their_name() -> None:
    class LayerNorm2d(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    network = nn.ModuleDict({"neck": LayerNorm2d(), "linear": nn.Linear(2, 2)})
    adapters.apply(network, FAMILY, AdapterSpec(kind="layernorm"))
    assert trained(network) == {"neck.weight"}


def test_bitfit_trains_every_bias_and_the_head() -> None:
    network = layered("bitfit")
    assert trained(network) == {n for n, _ in network.named_parameters() if n.endswith("bias")} | {"head.weight"}


def test_an_adapter_the_family_has_not_is_refused_with_those_it_has() -> None:
    with pytest.raises(SpecError, match=r"one that the family supports \(full, .*\), but got conv_lora"):
        adapters.apply(unet(), UNET, AdapterSpec(kind="conv_lora"))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_weights_give_the_same_outputs_without_the_adapters_layers(kind: str) -> None:
    network, x = moved(layered(kind)), tokens(2, 3, 3, 8)
    plain = {name for name, _ in Layered().named_parameters()}
    with torch.inference_mode():
        before = network(x)
    adapters.merge(network)
    assert {name for name, _ in network.named_parameters()} == plain
    with torch.inference_mode():
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(before, Layered.forward(layered("full"), x), atol=1e-2), "the adapter did something"


def test_merged_convolutions_give_the_same_outputs() -> None:
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    network = unet()
    adapters.apply(network, UNET, AdapterSpec(kind="lora", rank=2))
    moved(network)
    with torch.inference_mode():
        before = network.logits(images)
        adapters.merge(network)
        torch.testing.assert_close(network.logits(images), before, rtol=1e-3, atol=1e-4)
    assert not [n for n, _ in network.named_parameters() if "lora" in n]


def test_qlora_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "can_quantise", lambda: False)
    with pytest.raises(SpecError, match=r"`train\.adapter\.kind: qlora` needs a GPU, but this worker has none"):
        layered("qlora")


def test_qlora_trains_beside_weights_of_four_bits_and_merges_into_what_they_stand_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU, which bitsandbytes computes on as well, slowly."""
    monkeypatch.setattr(quantised, "can_quantise", lambda: True)
    network, x = layered("qlora"), tokens(2, 3, 3, 8)
    small = {name for name, module in network.named_modules() if quantised.is_quantised(module)}
    assert len(small) == 6, "the encoder's linear layers, and nothing else"
    assert {n for n in trained(network) if "lora_" not in n} == {"head.weight", "head.bias"}
    assert adapters.parameters(network) == adapters.parameters(layered("lora"))
    torch.autograd.backward(network(x).sum())
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    moved(network).train()  # in evaluation bitsandbytes packs weights anew for the CPU, in blocks of 32
    with torch.no_grad():
        before = network(x)
        adapters.merge(network)
        torch.testing.assert_close(network(x), before, rtol=1e-3, atol=1e-3)
    assert {n for n, _ in network.named_parameters()} == {n for n, _ in Layered().named_parameters()}


def conv_lora(*, experts: int = 3) -> ConvLora:
    torch.manual_seed(0)
    layer = ConvLora(nn.Linear(8, 6), rank=2, alpha=4.0, dropout=0.0, experts=experts)
    moved(layer)
    return layer


def test_conv_lora_is_the_sum_of_the_paper_with_one_expert_an_image() -> None:
    layer, x = conv_lora(), tokens(5, 4, 6, 8)
    with torch.inference_mode():
        expected = []
        for image in x:
            low = (image @ layer.lora_down.weight.T).permute(2, 0, 1)[None]
            chance = (low.mean((2, 3)) @ layer.lora_gate.weight.T + layer.lora_gate.bias).softmax(1)[0]
            i = int(chance.argmax())
            large = functional.interpolate(low, scale_factor=i + 1.0, mode="bilinear", align_corners=False)
            back = functional.interpolate(layer.lora_experts[i](large), (4, 6), mode="bilinear", align_corners=False)
            up = (chance[i] * back)[0].permute(1, 2, 0) @ layer.lora_up.weight.T
            expected.append(layer.base_layer(image) + 4.0 / 2 * up)
        torch.testing.assert_close(layer(x), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_conv_lora_takes_a_square_row_of_tokens_as_their_grid_and_refuses_any_other() -> None:
    layer, x = conv_lora(), tokens(2, 4, 4, 8)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x.flatten(1, 2)), layer(x).flatten(1, 2))
        with pytest.raises(SpecError, match=r"a grid of tokens.* sees \(2, 5, 2\)"):
            layer(tokens(2, 5, 8))


def test_every_expert_of_conv_lora_gets_a_gradient_whichever_is_chosen() -> None:
    network = layered("conv_lora", experts=4)
    torch.autograd.backward(network(tokens(1, 3, 3, 8)).sum())
    assert not [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_the_balance_of_conv_lora_is_least_where_all_experts_are_used_equally() -> None:
    network = layered("conv_lora")
    assert adapters.balance_loss(network) is None, "nothing was computed yet"
    network.train()(tokens(3, 3, 3, 8))
    balance = adapters.balance_loss(network)
    assert balance is not None
    assert float(balance.detach()) >= 1e-2 * 0.99, "1 at balance, times its weight"
    assert adapters.balance_loss(network) is None
    network.eval()(tokens(3, 3, 3, 8))
    assert adapters.balance_loss(network) is None


def test_the_weight_of_an_adapter_on_disk_is_that_of_what_it_trains() -> None:
    network = layered("lora")
    names = adapters.trained_names(network)
    assert adapters.bytes_of(network, names) == 4 * adapters.trained_parameters(network)
    assert adapters.parameters(network) > adapters.trained_parameters(network)
