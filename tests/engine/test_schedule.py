"""The optimiser decays what it should and the rate follows its formula."""

import math
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from segdist.engine.schedule import AdamW, adamw, warmup_cosine
from segdist.spec import TrainSpec


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_the_encoder_gets_its_own_rate_and_vectors_no_decay() -> None:
    network = Tiny()
    optimizer = adamw(network, TrainSpec(lr=0.1, encoder_lr_factor=0.5, weight_decay=0.3), encoder=("encoder.",))
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert (by_parameter[id(network.encoder.weight)]["lr"], by_parameter[id(network.head.weight)]["lr"]) == (0.05, 0.1)
    assert by_parameter[id(network.head.weight)]["weight_decay"] == 0.3
    assert by_parameter[id(network.head.bias)]["weight_decay"] == 0.0
    assert id(network.frozen.weight) not in by_parameter


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_cosine(optimizer, steps=20, warmup=0.2)
    rates = []
    for _ in range(20):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 16)) for i in range(16)])
    assert schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)


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
from segdist.engine.schedule import AdamW, warmup_cosine
parameter = torch.nn.Parameter(torch.ones(2))
optimizer = AdamW([parameter], lr=0.1)
schedule = warmup_cosine(optimizer, steps=2, warmup=0.5)
parameter.sum().backward()
optimizer.step()
schedule.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
