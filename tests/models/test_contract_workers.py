"""Two data-parallel workers take the batches that usually stop them, in every family."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import distributed

from segdist.engine.workers import Workers
from tests.models.test_contract_training import BATCHES, LEARNING, backward

STEPS = (
    ("none has objects", "none has objects"),
    ("none has objects", "200 objects"),
    ("one has objects", "none has objects"),
    ("200 objects", "200 objects"),
)
"""What the first and the second worker see in each step."""


def _work(rank: int, folder: Path) -> dict[str, str]:
    """What went wrong, by family and mode."""
    torch.set_num_threads(1)
    wrong: dict[str, str] = {}
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    try:
        workers = Workers.here()
        for variant in LEARNING:
            network = variant.build().train()
            parallel = workers.parallel(network)
            optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-4)
            for step in STEPS:
                optimizer.zero_grad(set_to_none=True)
                batch = network.collate(BATCHES[step[rank]](variant.options.image_size))
                loss = backward(variant, parallel, batch)
                gradients = [p.grad for p in network.parameters() if p.grad is not None]
                if not torch.isfinite(loss) or not all(torch.isfinite(g).all() for g in gradients):
                    wrong[str(variant)] = f"not finite in {step}"
                optimizer.step()
            mine = float(torch.stack([p.detach().double().sum() for p in network.parameters()]).sum())
            if len(set(workers.gather([mine]))) > 1:
                wrong[str(variant)] = "the workers' weights differ"
    finally:
        distributed.destroy_process_group()
    return wrong


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_workers_stay_together_whatever_each_of_them_sees(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        outcomes = list(processes.map(_work, range(2), [tmp_path] * 2))
    assert outcomes == [{}, {}]
