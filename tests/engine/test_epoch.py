"""One epoch of two terms, each linear in a weight of its own, so that every step can be reckoned by hand."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segdist.adapters.conv_lora import BALANCE_WEIGHT, ConvLora
from segdist.core.errors import SpecError
from segdist.core.plugins import Batch, declaration
from segdist.engine.epoch import LossNotFiniteError, Metrics, train_epoch
from segdist.engine.state import Fit
from segdist.engine.workers import Workers
from segdist.nets.segmenter import Divisor, Segmenter
from tests.engine.drawn import tiny_run
from tests.stand_in import StandIn

START = {"left": 2.0, "right": -1.0}
SHARES = {"left": 3.0, "right": 0.5}
"""Weights of the two terms in the loss."""
BATCHES: list[Batch] = [{"left": torch.tensor(a), "right": torch.tensor(b)} for a, b in ((1, 2), (3, -4), (-2, 1))]


class TwoTerms(StandIn):
    """A term is its weight times what the batch says; a batch that says nothing of one leaves it out.

    The gradients of one that `breaks` are not finite, though its terms are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({name: torch.tensor(value) for name, value in START.items()})
        self.seen: list[Any] = []

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Keeps what it was given, with the precision and the mode it was given in."""
        self.seen.append((batch, torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), self.training))
        terms = {name: weight * batch[name].cpu() for name, weight in self.weights.items() if name in batch}
        if batch.get("breaks"):
            for term in terms.values():
                term.register_hook(lambda gradient: gradient * math.inf)
        return terms


@dataclass(frozen=True)
class Watched(Workers):
    """Remembers which modules were not synchronised; beside it works another, which counts the same."""

    unused: tuple[str, ...] = ()
    """What the other leaves without a gradient."""
    left: list[nn.Module] = field(default_factory=list)

    def unsynchronised(self, parallel: nn.Module) -> AbstractContextManager[None]:  # type: ignore[override]
        self.left.append(parallel)
        return nullcontext()

    def gather(self, mine: list[Any]) -> list[Any]:
        return [*mine, *([*self.unused] if isinstance(one, list) else one for one in mine)]


def state_of(network: Segmenter, *, rate: float = 0.1, workers: Workers | None = None, **train: Any) -> Fit:
    """A fit at its beginning, moved by plain gradient descent."""
    run = tiny_run(**{"grad_clip": 1e9, "schedule": "constant", "warmup": 0.0, **train})
    family = declaration(run.model.family)
    state = Fit(run, network, family, workers or Workers(), SHARES, steps_per_epoch=len(BATCHES))
    state.enter(0)
    state.optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    state.schedule = torch.optim.lr_scheduler.ConstantLR(state.optimizer, factor=1.0)
    return state


def epoch_of(
    state: Fit, batches: Sequence[Batch] = BATCHES, *, images: int = 7, passes: int = 1, counts: Sequence[int] = ()
) -> Metrics:
    """An epoch whose steps have so many batches, with so many images each."""
    held = [*counts] or [2] * len(batches)
    steps = [held[first : first + passes] for first in range(0, len(batches), passes)]
    return train_epoch(state, state.network, batches, steps=steps, images=images)


def weights_of(network: nn.Module) -> dict[str, float]:
    return {name.rpartition(".")[2]: p.item() for name, p in network.named_parameters() if p.ndim == 0}


@pytest.mark.parametrize("clip", [1.0, 1e9])
@pytest.mark.parametrize("counts", [(2, 2, 2), (4, 2, 1)])
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_an_epoch_does_and_reports_what_its_formulas_say(passes: int, counts: tuple[int, ...], clip: float) -> None:
    state = state_of(TwoTerms(), grad_clip=clip)
    found = epoch_of(state, passes=passes, counts=counts)

    at, norms = np.array([*START.values()]), []
    terms: list[list[float]] = []
    for first in range(0, 3, passes):
        group = np.array([[float(v) for v in batch.values()] for batch in BATCHES[first : first + passes]])
        step = np.average(group, axis=0, weights=counts[first : first + passes])
        terms.append((at * step).tolist())
        gradient = step * [*SHARES.values()]
        norms.append(float(np.linalg.norm(gradient)))
        at = at - 0.1 * gradient * min(1.0, clip / norms[-1])
    left, right = np.mean(terms, axis=0)
    assert [*weights_of(state.network).values()] == pytest.approx(at, rel=1e-5)
    assert found["train/loss/left"] == pytest.approx(left, rel=1e-5)
    assert found["train/loss/right"] == pytest.approx(right, rel=1e-5)
    assert found["train/loss"] == pytest.approx(SHARES["left"] * left + SHARES["right"] * right, rel=1e-5)
    assert found["train/grad_norm"] == pytest.approx(np.mean(norms), rel=1e-5)
    assert (state.steps, state.epoch, found["epoch"]) == (len(norms), 1, 1)


def test_names_sizes_and_times_of_an_epoch() -> None:
    network = TwoTerms()
    network.weights["right"].requires_grad_(False)
    state, began = state_of(network), time.perf_counter()
    found = epoch_of(state, images=14)
    assert found.keys() == {
        *("model/parameters", "model/trained_parameters", "model/adapter_bytes"),
        *("epoch", "seconds", "first_step_at", "diverged"),
        *("train/loss", "train/loss/left", "train/loss/right", "train/grad_norm", "train/skipped_steps"),
        *("train/lr", "train/phase", "train/images_per_second"),
    }
    assert 0 < found["seconds"] < time.perf_counter() - began
    assert found["train/images_per_second"] == 14 / found["seconds"]
    sizes = [found[f"model/{name}"] for name in ("parameters", "trained_parameters", "adapter_bytes")]
    assert sizes == [2, 1, 4]
    assert [found[f"train/{name}"] for name in ("phase", "lr")] == [1, 0.1]


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch says no types
    """Counts values that are read from tensors: each waits until a GPU has computed it."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("train", [{}, {"ema": 0.1}, {"precision": "bfloat16"}], ids=str)
def test_a_step_waits_for_one_number_however_many_terms_and_passes_it_has(train: dict[str, Any]) -> None:
    def reads(steps: int, passes: int) -> int:
        state = state_of(TwoTerms(), **train)
        with Reads() as mode:  # type: ignore[no-untyped-call]
            epoch_of(state, BATCHES[:1] * steps * passes, passes=passes)
        return mode.count

    assert reads(6, 1) - reads(2, 1) == 4
    assert reads(6, 3) - reads(2, 3) == 4


def test_the_first_step_of_all_epochs_has_its_time_kept() -> None:
    state, began = state_of(TwoTerms()), time.time()
    first, second = epoch_of(state), epoch_of(state)
    assert began <= first["first_step_at"] == second["first_step_at"] <= time.time()


def test_the_largest_of_several_rates_is_reported() -> None:
    state = state_of(TwoTerms())
    slow, fast = state.network.parameters()
    state.optimizer = torch.optim.SGD([{"params": [slow], "lr": 0.01}, {"params": [fast], "lr": 0.2}])
    state.schedule = torch.optim.lr_scheduler.ConstantLR(state.optimizer, factor=1.0)
    assert epoch_of(state)["train/lr"] == 0.2


def test_a_batch_that_does_not_count_moves_nothing() -> None:
    """A worker without an image in a last, smaller batch is given another's."""
    state = state_of(TwoTerms())
    epoch_of(state, BATCHES[:2], passes=2, counts=(2, 0))
    alone = state_of(TwoTerms())
    epoch_of(alone, BATCHES[:1])
    assert weights_of(state.network) == weights_of(alone.network)


def test_a_term_counts_by_what_its_family_divides_it_by_and_the_others_by_images() -> None:
    class Divided(TwoTerms):
        def divisors(self, batch: Batch) -> dict[str, Divisor]:
            return {"left": Divisor(float(batch["objects"]), least=1)}

    objects = (3, 0)
    batches: list[Batch] = [{**b, "objects": torch.tensor(n)} for b, n in zip(BATCHES, objects, strict=False)]
    state = state_of(Divided())
    found = epoch_of(state, batches, passes=2, counts=(1, 3))
    # Sums of 3 and of 0 objects, divided by 3 and by at least 1; together by 3.
    left, right = (3 * float(BATCHES[0]["left"]) + 1 * float(BATCHES[1]["left"])) / 3, (2 + 3 * -4) / 4
    assert found["train/loss/left"] == pytest.approx(START["left"] * left)
    assert found["train/loss/right"] == pytest.approx(START["right"] * right)
    moved = [START["left"] - 0.1 * SHARES["left"] * left, START["right"] - 0.1 * SHARES["right"] * right]
    assert [*weights_of(state.network).values()] == pytest.approx(moved)


def test_a_term_of_which_a_step_holds_nothing_is_zero() -> None:
    class Empty(TwoTerms):
        def divisors(self, batch: Batch) -> dict[str, Divisor]:
            return {"left": Divisor(0)}

    found = epoch_of(state_of(Empty()), passes=3)
    assert found["train/loss/left"] == 0
    assert found["train/loss"] == pytest.approx(SHARES["right"] * found["train/loss/right"])


def test_gradients_are_averaged_over_workers_only_where_the_weights_move() -> None:
    workers = Watched()
    state = state_of(TwoTerms(), workers=workers)
    epoch_of(state, passes=2)
    assert workers.left == [state.network], "the first of three batches; the second and the third move the weights"


def test_what_is_not_finite_counts_in_no_mean() -> None:
    lost: Batch = {**BATCHES[0], "breaks": True}
    state = state_of(TwoTerms(), rate=1e-9)
    found = epoch_of(state, [BATCHES[0], lost, BATCHES[0]])
    assert found["train/loss/left"] == pytest.approx(2)
    assert found["train/loss/right"] == pytest.approx(-2)
    assert found["train/loss"] == pytest.approx(5)
    assert found["train/grad_norm"] == pytest.approx(math.hypot(3, 1))
    assert (found["train/skipped_steps"], found["diverged"]) == (1, 0)

    nothing = epoch_of(state, [lost, lost])
    assert (nothing["train/skipped_steps"], nothing["diverged"]) == (2, 1)
    assert math.isnan(nothing["train/grad_norm"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_loss_that_is_not_finite_is_said_with_its_step_and_terms_before_anything_moves(
    value: float, passes: int
) -> None:
    state = state_of(TwoTerms())
    batches = [*BATCHES[:passes], *BATCHES[: passes - 1], {"left": torch.tensor(1.0), "right": torch.tensor(value)}]
    with pytest.raises(LossNotFiniteError) as caught:
        epoch_of(state, batches, passes=passes)
    assert (caught.value.step, caught.value.terms) == (1, ["loss", "right"])
    alone = state_of(TwoTerms())
    epoch_of(alone, BATCHES[:passes], passes=passes)
    assert weights_of(state.network) == weights_of(alone.network)


def test_neither_momentum_nor_decay_moves_the_weights_in_a_step_that_is_skipped() -> None:
    state = state_of(TwoTerms())
    state.optimizer = torch.optim.AdamW(state.network.parameters(), lr=0.1, weight_decay=0.5)
    state.schedule = torch.optim.lr_scheduler.ConstantLR(state.optimizer, factor=1.0)
    epoch_of(state, BATCHES)
    before = weights_of(state.network)
    epoch_of(state, [{**BATCHES[0], "breaks": True}])
    assert weights_of(state.network) == before
    assert before != START


def test_a_weight_that_a_step_does_not_use_is_not_moved_by_the_last_one() -> None:
    state = state_of(TwoTerms())
    state.optimizer = torch.optim.SGD(state.network.parameters(), lr=0.1, momentum=0.9)
    state.schedule = torch.optim.lr_scheduler.ConstantLR(state.optimizer, factor=1.0)
    epoch_of(state, BATCHES[:1])
    before = weights_of(state.network)
    epoch_of(state, [{"right": torch.tensor(1.0)}])
    assert weights_of(state.network)["left"] == before["left"]
    assert weights_of(state.network)["right"] != before["right"]


def test_the_balance_of_the_gates_of_conv_lora_is_a_term_of_its_own() -> None:
    class Gated(TwoTerms):
        def __init__(self) -> None:
            super().__init__()
            self.layer = ConvLora(nn.Linear(2, 2), rank=1, alpha=1.0, dropout=0.0, experts=3)

        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            terms = super().forward(batch)
            return {**terms, "left": terms["left"] + 0 * self.layer(torch.ones(1, 2, 2, 2)).sum()}

    network = Gated()
    nn.init.zeros_(network.layer.lora_gate.weight)
    nn.init.zeros_(network.layer.lora_gate.bias)
    found = epoch_of(state_of(network), BATCHES[:1])
    # Three experts of the same probability: 3 * (1 * 1/3), by Fedus et al. 2021, eq. 4.
    assert found["train/loss/balance"] == pytest.approx(BALANCE_WEIGHT)
    assert found["train/loss"] == pytest.approx(3 * 2 + 0.5 * -2 + BALANCE_WEIGHT)


def test_what_the_family_counts_is_added_up_over_the_workers() -> None:
    class Counting(TwoTerms):
        def take_counts(self) -> dict[str, float]:
            return {"fallbacks": 2.0}

    assert epoch_of(state_of(Counting(), workers=Watched()))["train/fallbacks"] == 4


def idle(*names: str) -> TwoTerms:
    network = TwoTerms()
    network.weights.update({name: nn.Parameter(torch.tensor(1.0)) for name in names})
    return network


@pytest.mark.parametrize(("count", "told"), [(5, "d, weights.e. Where"), (6, "d, weights.e, .... Where")])
def test_weights_without_a_gradient_are_named_five_at_most(count: int, told: str) -> None:
    with pytest.raises(SpecError) as error:
        epoch_of(state_of(idle(*"fedcba"[-count:])))
    message = str(error.value)
    assert f"but {count} got no gradient in the first step: weights.a, weights.b, weights.c, weights.{told}" in message
    assert message.endswith("name others; otherwise the family must freeze them when it builds the model, "
                            "or declare them as `sometimes_unused`.")  # fmt: skip


def test_a_weight_that_another_worker_uses_or_the_family_may_leave_unused_is_no_error() -> None:
    state = state_of(idle("a"), workers=Watched(unused=()))
    assert epoch_of(state)["epoch"] == 1
    with pytest.raises(SpecError, match=r"1 got no gradient in the first step: weights\.a\."):
        epoch_of(state_of(idle("a"), workers=Watched(unused=("weights.a", "weights.left"))))

    state = state_of(idle("a", "ab"))
    state.family = replace(state.family, sometimes_unused=("weights.a",))
    assert epoch_of(state)["epoch"] == 1
    state = state_of(idle("a", "b"))
    state.family = replace(state.family, sometimes_unused=("weights.a",))
    with pytest.raises(SpecError, match=r"1 got no gradient in the first step: weights\.b\."):
        epoch_of(state)


def test_weights_are_asked_for_their_gradients_once_in_a_phase() -> None:
    state = state_of(TwoTerms())
    epoch_of(state)
    only_right: list[Batch] = [{"right": torch.tensor(1.0)}]
    assert epoch_of(state, only_right)["epoch"] == 2
    state.enter(0)
    with pytest.raises(SpecError, match=r"weights\.left"):
        epoch_of(state, only_right)


def test_a_frozen_batch_norm_alone_is_not_in_training_mode() -> None:
    network = TwoTerms()
    frozen, trained = nn.BatchNorm2d(2).requires_grad_(False), nn.BatchNorm1d(2)
    network.norms = nn.ModuleList([frozen, trained, nn.Dropout()])
    state = state_of(network)
    state.family = replace(state.family, sometimes_unused=("norms.",))
    network.eval()
    epoch_of(state)
    assert [m.training for m in network.norms] == [False, True, True]
    assert all(training for *_, training in network.seen)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What torch was asked to compute in another precision."""
    calls: list[tuple[Any, ...]] = []

    def autocast(*arguments: Any) -> AbstractContextManager[None]:
        calls.append(arguments)
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    return calls


@pytest.mark.parametrize(
    ("precision", "device", "gpu_knows_it", "expected"),
    [
        ("bfloat16", "cpu", False, torch.bfloat16),
        ("bfloat16", "meta", False, torch.bfloat16),
        ("float32", "cuda", True, None),
        ("float32", "cpu", True, None),
        ("auto", "cpu", True, None),
        ("float16", "cpu", True, torch.float16),
        ("auto", "cuda", True, torch.bfloat16),
    ],
)
def test_the_precision_asked_for_is_that_of_the_run_and_the_device(
    precision: str,
    device: str,
    expected: torch.dtype | None,
    gpu_knows_it: bool,
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: gpu_knows_it or including_emulation
    )
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)  # this machine need not have the device
    epoch_of(state_of(TwoTerms(), workers=Workers(device=torch.device(device)), precision=precision), BATCHES[:1])
    assert asked == ([(device, expected)] if expected else [])


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_network_computes_in_the_precision_of_the_run(precision: str) -> None:
    network = TwoTerms()
    epoch_of(state_of(network, precision=precision))
    assert {(on, dtype) for _, on, dtype, _ in network.seen} == {(precision == "bfloat16", torch.bfloat16)}


def test_tensors_and_lists_of_them_go_to_the_device_and_other_values_stay() -> None:
    network = idle()
    batch: Batch = {**BATCHES[0], "boxes": [torch.ones(2), [torch.ones(1)], "a"], "names": ("b",), "none": None}
    state = state_of(network, workers=Workers(device=torch.device("meta")))
    with pytest.raises(NotImplementedError, match="meta"):  # it has no numbers
        epoch_of(state, [batch])
    ((seen, *_),) = network.seen
    assert {name: value.device.type for name, value in seen.items() if name in START} == dict.fromkeys(START, "meta")
    assert [seen["boxes"][0].device.type, seen["boxes"][1][0].device.type, seen["boxes"][2]] == ["meta", "meta", "a"]
    assert (seen["names"], seen["none"]) == (("b",), None)
    assert [len(seen["boxes"][0]), len(seen["boxes"])] == [2, 3]
