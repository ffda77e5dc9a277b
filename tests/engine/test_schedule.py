"""The optimiser decays what it should and the rate follows its formula."""

import math

import pytest
import torch
from torch import nn

from segdist.engine.schedule import adamw, warmup_cosine
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
