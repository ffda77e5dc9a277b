"""Two processes each hold a part of one model: what they learn, score and save is what one process alone does."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from segdist.core.spec import RunSpec
from segdist.engine import checkpoint
from segdist.engine.checkpoint import WEIGHTS
from segdist.engine.divided import forget_unused, mine, unscale
from segdist.engine.fit import MODEL, TRAINING, Metrics, fit
from segdist.engine.state import Fit
from segdist.engine.workers import Workers
from tests.engine.drawn import CLASSES, Reports, roofs, tiny_run, weights

TRAIN, VAL = roofs(7), roofs(3, seed=1)
"""Counts that two workers cannot divide, of images and of passes."""
PHASES = [{"epochs": 1, "lr": 1e-3, "warmup": 0.0, "freeze": "encoder"}, {"epochs": 1, "lr": 1e-3, "warmup": 0.0}]
ALONE = tiny_run(batch_size=4, phases=PHASES, ema=0.3, keep_every=2)
DIVIDED = {"resources.workers": 2, "resources.strategy": "fsdp", "resources.micro_batch": 1}
LORA = tiny_run(batch_size=4, lr=1e-3, warmup=0.0, adapter={"kind": "lora", "dropout": 0.0})
"""Its frozen weights are to be named by a digest, as large ones are."""


@dataclass
class Outcome:
    """How the fits of one worker ended."""

    metrics: list[Metrics]
    resumed: list[Metrics]
    of_lora: list[Metrics]
    share: float
    """Of the bytes of parameters and states of the optimiser, what this worker holds between two steps."""
    has_gradient: list[bool]
    """Of layers that all workers used in a step, one of them, and none."""
    unscaled: tuple[float, float]
    """Gradients, of a divided weight and of a scalar that is not divided, whose scale was taken away."""


class Layers(nn.Module):
    """Of which a step takes some, times a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.layers = nn.ParameterList(torch.ones(4, 2) for _ in range(3))

    def forward(self, taken: list[int]) -> torch.Tensor:
        return self.factor * torch.stack([self.layers[k].sum() for k in taken]).sum()


def _of_layers(rank: int) -> tuple[list[bool], tuple[float, float]]:
    network, mesh = Layers(), init_device_mesh("cpu", (2,))
    fully_shard(network, mesh=mesh, ignored_params={network.factor})
    assert isinstance(network, FSDPModule)
    network.set_reduce_scatter_unused_params(True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(network([0, 1] if rank else [0])).backward()
    parameters = list(network.parameters())
    unscale(scaler, torch.optim.SGD(parameters, lr=1.0), parameters)
    scaler.update()
    forget_unused(parameters, Workers.here())
    gradient, of_factor = network.layers[0].grad, network.factor.grad
    assert gradient is not None
    assert of_factor is not None
    return [layer.grad is not None for layer in network.layers], (float(mine(gradient)[0, 0]), float(of_factor))


_SAVE = Fit.save


def _looking_at(shares: list[float]) -> None:
    """From here on, a fit that saves tells which share of its bytes this process holds."""

    def look(self: Fit, folder: Path, **how: Any) -> None:
        states = [value for of in self.optimizer.state.values() for value in of.values() if value.ndim]
        held = [*self.network.parameters(), *states]
        shares.append(sum(mine(value).nbytes for value in held) / sum(value.nbytes for value in held))
        _SAVE(self, folder, **how)

    Fit.save = look  # type: ignore[method-assign]


def _work(rank: int, world_size: int, folder: Path, resume: Path | None) -> Outcome:
    torch.set_num_threads(1)
    if world_size > 1:
        meeting = f"file://{folder / 'meeting'}"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    try:
        for name in ("resumed", "lora"):
            (folder / name).mkdir(exist_ok=True)  # both may be first
        shares, whole, resumed, lora = list[float](), *(Reports(folder / name) for name in ("", "resumed", "lora"))
        _looking_at(shares)
        divided = DIVIDED if world_size > 1 else {}
        run = ALONE.override(divided)
        _fit(run, whole, kept=str(folder / "kept"))
        if resume:
            _fit(run, resumed, resume=resume)
        checkpoint.SELF_CONTAINED_BYTES = 0
        _fit(LORA.override(divided), lora)
        of_layers = _of_layers(rank) if world_size > 1 else ([], (0.0, 0.0))
        return Outcome(whole.metrics, resumed.metrics, lora.metrics, shares[1], *of_layers)
    finally:
        if world_size > 1:
            distributed.destroy_process_group()


def _fit(run: RunSpec, reports: Reports, **more: Any) -> None:
    fit(run, CLASSES, train=TRAIN, val=VAL, report=reports, workers=Workers.here(), **more)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of the checkpoints, and what one process comes to."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "save", _SAVE)  # which the work replaces, for good in a process of its own
        patch.setattr(checkpoint, "SELF_CONTAINED_BYTES", checkpoint.SELF_CONTAINED_BYTES)
        return folder, _work(0, 1, folder, None)


@pytest.fixture(scope="module")
def divided(alone: tuple[Path, Outcome], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    """What two come to, from the start and from the checkpoint of the one."""
    folder, resume = tmp_path_factory.mktemp("divided"), alone[0] / "1"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        return folder, list(processes.map(_work, range(2), [2] * 2, [folder] * 2, [resume] * 2))


Alone = tuple[Path, Outcome]
Divided = tuple[Path, list[Outcome]]


def test_losses_gradients_and_scores_are_those_of_one_process(alone: Alone, divided: Divided) -> None:
    """Frozen blocks in the first phase, averages of weights, passes that are added up, and LoRA on a frozen base."""
    for outcome in divided[1]:
        for expected, found in ((alone[1].metrics, outcome.metrics), (alone[1].of_lora, outcome.of_lora)):
            for one, two in zip(expected, found, strict=True):
                for name in ("train/loss", "train/grad_norm", "train/lr", "model/parameters", "model/adapter_bytes"):
                    assert two[name] == pytest.approx(one[name], rel=1e-4), name
                for name in ("val/iou", "val/dice"):
                    assert two[name] == pytest.approx(one[name], abs=1e-3), name


def test_what_is_saved_has_the_form_and_values_of_one_process(alone: Alone, divided: Divided) -> None:
    """Models and averages after each epoch, kept models, and what training needs to go on."""
    folders = ["1/model", "2/model", "lora/1/model", *(f"kept/step-{n:07d}" for n in (2, 4))]
    for name in folders:
        _assert_moved_alike(divided[0] / name, alone[0] / name)
    one, two = (torch.load(folder / "2" / TRAINING, weights_only=True) for folder in (alone[0], divided[0]))
    assert one.keys() == two.keys()
    assert _shapes(one["optimizer"]) == _shapes(two["optimizer"])
    assert _shapes(one["averaged"]) == _shapes(two["averaged"])


def _assert_moved_alike(found: Path, expected: Path) -> None:
    """From the weights that training began with; the digest of frozen weights is the same too.

    Adam turns rounding in a gradient near zero into a whole step of that one value: the move as a whole counts.
    """
    described = checkpoint.describe(expected)
    assert checkpoint.describe(found) == described
    start = weights(checkpoint.build(described.model, CLASSES, adapter=described.adapter, seed=described.seed))
    one, two = load_file(expected / WEIGHTS), load_file(found / WEIGHTS)
    assert one.keys() == two.keys()
    apart = sum(float(((two[name] - value) ** 2).sum()) for name, value in one.items())
    moved = sum(float(((start[name] - value) ** 2).sum()) for name, value in one.items())
    assert apart < 1e-4 * moved


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        assert type(value) is torch.Tensor
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return {key: _shapes(one) for key, one in value.items()}
    return [_shapes(one) for one in value] if isinstance(value, list | tuple) else value


def test_one_goes_on_from_the_checkpoint_of_the_other(alone: Alone, divided: Divided, tmp_path: Path) -> None:
    back = Reports(tmp_path)
    fit(ALONE, CLASSES, train=TRAIN, val=VAL, report=back, resume=divided[0] / "1")
    (expected,) = alone[1].metrics[1:]
    for found in (back.metrics, *(outcome.resumed for outcome in divided[1])):
        (epoch,) = found
        for name in ("epoch", "train/loss", "train/grad_norm", "train/lr"):
            assert epoch[name] == pytest.approx(expected[name], rel=1e-4), name
    for folder in (tmp_path / "2", divided[0] / "resumed" / "2"):
        _assert_moved_alike(folder / MODEL, alone[0] / "2" / MODEL)


def test_each_worker_holds_about_half(divided: Divided) -> None:
    """Not less where a first dimension cannot be halved."""
    for outcome in divided[1]:
        assert 0.4 < outcome.share < 0.6


def test_what_no_worker_used_in_a_step_has_no_gradient_and_is_not_moved(divided: Divided) -> None:
    """As where nothing is divided: AdamW would decay it, and go on with its momentum."""
    for outcome in divided[1]:
        assert outcome.has_gradient == [True, True, False]


def test_the_scale_of_the_loss_is_taken_from_divided_gradients_and_others_alike(divided: Divided) -> None:
    for outcome, of_factor in zip(divided[1], (8.0, 16.0), strict=True):
        assert outcome.unscaled == (2.0, of_factor)


@pytest.mark.parametrize("resources", [{"workers": 1}, {"workers": 2, "gpus_per_worker": 0.5}])
def test_nothing_is_divided_over_one_worker_or_parts_of_a_card(resources: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"`resources.strategy: fsdp` (divides|needs)"):
        RunSpec.model_validate({**tiny_run().model_dump(), "resources": {"strategy": "fsdp", **resources}})


def test_how_work_is_divided_does_not_change_what_is_learned() -> None:
    assert ALONE.override(DIVIDED).fingerprint == ALONE.fingerprint
