"""Layers that compute with what follows them: the same answers, gradients and names."""

import copy

import pytest
import torch
from torch import nn

from segdist.nets.fused import FusedConv2d, FusedLinear, fuse


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.act = nn.GELU()
        self.fc = nn.Linear(8, 16)
        self.act2 = nn.GELU()
        self.out = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.depth(self.conv(x))).permute(0, 2, 3, 1)
        found: torch.Tensor = self.out(self.act2(self.fc(x)))
        return found


@pytest.fixture
def pair() -> tuple[Block, Block]:
    torch.manual_seed(0)
    plain = Block()
    fused = copy.deepcopy(plain)
    fuse(fused, {"depth": "act", "fc": "act2"})
    return plain, fused


def test_answers_without_gradients_are_those_of_plain_layers(pair: tuple[Block, Block]) -> None:
    plain, fused = pair
    assert isinstance(fused.fc, FusedLinear)
    assert isinstance(fused.depth, FusedConv2d)
    assert isinstance(fused.act2, nn.Identity), "it is computed with the layer before it"
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), plain(images), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_plain_layers_and_names_stay(pair: tuple[Block, Block]) -> None:
    plain, fused = pair
    images = torch.randn(2, 3, 16, 16)
    for network in pair:
        network(images).square().sum().backward()
    for (name, a), (other, b) in zip(plain.named_parameters(), fused.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(b.grad, a.grad)


def test_another_precision_goes_through_torch(pair: tuple[Block, Block]) -> None:
    _, fused = pair
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert fused(torch.randn(1, 3, 8, 8)).dtype == torch.bfloat16


def test_a_network_with_fused_layers_can_be_exported(pair: tuple[Block, Block]) -> None:
    plain, fused = pair
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(fused.eval(), (images,))
        torch.testing.assert_close(program.module()(images), plain(images))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
