"""The optimiser decays what it should and the rate follows its formula."""

import math
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from segdist.core.errors import SpecError
from segdist.core.spec import PhaseSpec
from segdist.engine.schedule import AdamW, adamw, rates


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_the_encoder_gets_its_own_rate_and_vectors_no_decay() -> None:
    network = Tiny()
    phase = PhaseSpec(epochs=1, lr=0.1, encoder_lr_factor=0.5)
    optimizer = adamw(network, phase, weight_decay=0.3, encoder=("encoder.",))
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert (by_parameter[id(network.encoder.weight)]["lr"], by_parameter[id(network.head.weight)]["lr"]) == (0.05, 0.1)
    assert by_parameter[id(network.head.weight)]["weight_decay"] == 0.3
    assert by_parameter[id(network.head.bias)]["weight_decay"] == 0.0
    assert id(network.frozen.weight) not in by_parameter


class Blocks(nn.Module):
    """Embeddings, three blocks with a layer between two of them, and what an encoder ends with."""

    def __init__(self) -> None:
        super().__init__()
        names = ("embed", "blocks_0", "down", "blocks_1", "blocks_2", "norm")
        self.encoder = nn.ModuleDict({name: nn.Linear(2, 2) for name in names})
        self.head = nn.Linear(2, 2)


def test_rates_fall_from_block_to_block_down_to_the_embeddings() -> None:
    network, phase = Blocks(), PhaseSpec(epochs=1, lr=0.1, encoder_lr_factor=0.5)
    optimizer = adamw(
        network, phase, weight_decay=0.3, encoder=("encoder.",), layer_decay=0.8, blocks=("encoder.blocks_*",)
    )
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name.removeprefix("encoder."): rates[id(p)] for name, p in network.named_parameters()}
    below = {"embed": 4, "blocks_0": 3, "down": 3, "blocks_1": 2, "blocks_2": 1, "norm": 1}
    expected = {name: 0.1 * 0.5 * 0.8**depth for name, depth in below.items()} | {"head": 0.1}
    assert found == {f"{n}.{k}": pytest.approx(rate) for n, rate in expected.items() for k in ("weight", "bias")}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 14
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.3}


def test_rates_cannot_fall_in_an_encoder_without_blocks() -> None:
    with pytest.raises(SpecError, match=r"`train\.layer_decay` must be 1 for an encoder without blocks"):
        adamw(Tiny(), PhaseSpec(epochs=1, lr=0.1), weight_decay=0, encoder=("encoder.",), layer_decay=0.9)


def rates_of(phase: PhaseSpec, *, steps: int = 20) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=phase.lr)
    schedule = rates(optimizer, phase, steps=steps)
    found = []
    for _ in range(steps + 1):
        found.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine() -> None:
    found = rates_of(PhaseSpec(epochs=1, lr=1.0, warmup=0.2))
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 16)) for i in range(17)])
    assert found[-1] == pytest.approx(0.0, abs=1e-12)


def test_the_rate_may_fall_as_a_line_or_not_at_all() -> None:
    line = rates_of(PhaseSpec(epochs=1, lr=2.0, warmup=0.2, schedule="linear"))
    assert line[4:] == pytest.approx([2 * (1 - i / 16) for i in range(17)])
    constant = rates_of(PhaseSpec(epochs=1, lr=2.0, warmup=0.2, schedule="constant"))
    assert constant[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert constant[-1] == 2.0


def test_steps_are_those_of_torchs_own_adamw_also_after_loading_its_state() -> None:
    ours, theirs = nn.Parameter(torch.arange(4.0)), nn.Parameter(torch.arange(4.0))
    optimizers = [AdamW([ours], lr=0.1, weight_decay=0.2), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.2)]
    for step in range(6):
        if step == 3:
            optimizers[0] = AdamW([ours], lr=9.0)
            optimizers[0].load_state_dict(deepcopy(optimizers[1].state_dict()))  # torch shares the moments otherwise
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            torch.autograd.backward((parameter * torch.tensor([1.0, -2.0, 0.5, step])).sum())
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, torch.arange(4.0))
    assert optimizers[0].state_dict()["param_groups"] == optimizers[1].state_dict()["param_groups"]


def test_a_step_does_not_wait_for_torchs_compiler_to_be_imported() -> None:
    program = """
import sys, torch
from segdist.engine.schedule import AdamW, rates
from segdist.core.spec import PhaseSpec
parameter = torch.nn.Parameter(torch.ones(2))
optimizer = AdamW([parameter], lr=0.1)
schedule = rates(optimizer, PhaseSpec(epochs=1, lr=0.1), steps=2)
parameter.sum().backward()
optimizer.step()
schedule.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
