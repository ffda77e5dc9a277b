"""One pass over the training split, step by step."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice

import torch
from torch import nn

from segdist import adapters
from segdist.core.errors import SpecError
from segdist.core.plugins import Batch
from segdist.engine.divided import average_scalars, clip_gradients, forget_unused, unscale
from segdist.engine.precision import autocast
from segdist.engine.shares import Share, shares
from segdist.engine.state import Fit
from segdist.engine.under_way import LeftError, UnderWay
from segdist.nets.collate import on_device


class LossNotFiniteError(Exception):
    """The loss of a step is infinite or no number; where it is caught it is known of which images.

    Args:
        step: its number in the epoch, from 0.
        terms: names of those that are not finite.
    """

    def __init__(self, step: int, terms: Sequence[str]) -> None:
        super().__init__(step, terms)
        self.step, self.terms = step, terms


Metrics = dict[str, float]
_BALANCE = "balance"


def train_epoch(
    state: Fit, parallel: nn.Module, batches: Iterable[Batch], *, steps: Sequence[Sequence[int]], images: int
) -> Metrics:
    """Train on every batch once; what was measured, by the names of MLflow.

    Args:
        state: moved on by an epoch, of which the steps under way are done.
        parallel: its network, wrapped for data-parallel training.
        batches: of this worker, for the steps that are left.
        steps: for each step of the optimiser, the images that count in each of this worker's batches.
        images: of all workers.

    Raises:
        SpecError: a parameter that is to be trained is not used.
        LeftError: a worker is to leave; all raise it after the same step.
    """
    state.reseed()
    left_after, start = state.under_way.seconds, time.perf_counter()
    of_worker = iter(batches)  # which may draw a number
    state.under_way.take_up_chance(state.workers)
    try:
        metrics = _all_steps(state, parallel, of_worker, steps)
    finally:
        seconds = state.under_way.seconds = left_after + time.perf_counter() - start
    state.epoch += 1
    state.under_way = UnderWay()
    sizes = {
        "model/parameters": float(adapters.parameters(state.network)),
        "model/trained_parameters": float(adapters.trained_parameters(state.network)),
        "model/adapter_bytes": float(adapters.bytes_of(state.network, state.trainable)),
    }
    progress = {"epoch": state.epoch, "seconds": seconds, "train/images_per_second": images / seconds}
    return metrics | sizes | progress


def _all_steps(state: Fit, parallel: nn.Module, batches: Iterator[Batch], steps: Sequence[Sequence[int]]) -> Metrics:
    """One pass over the training split; means of the loss terms, the gradient norm and the last learning rate."""
    _train_mode(parallel)
    under_way = state.under_way
    norms = under_way.norms
    for number, counts in enumerate(steps[under_way.steps :], start=under_way.steps):
        with state.pace.part("data"):
            step = list(islice(batches, len(counts)))
        terms = _add_gradients(state, parallel, step, counts)
        for name, value in terms.items():
            under_way.terms.setdefault(name, []).append(value)
        if not state.gradients_checked:
            _check_gradients(state)
        with state.pace.part("update"):
            norms.append(_step(state, number, terms))
        state.count_step()
        state.pace.stepped(sum(counts))
        state.first_step_at = state.first_step_at or time.time()
        if state.is_to_leave:
            under_way.counts = _counts(state)
            raise LeftError
    metrics: Metrics = {
        f"train/{'loss' if name == 'loss' else f'loss/{name}'}": state.workers.mean(_finite_mean(of_steps))
        for name, of_steps in under_way.values().items()
    }
    finite = [n for n in norms if math.isfinite(n)]
    metrics["train/grad_norm"] = _finite_mean(norms)
    metrics["train/skipped_steps"] = float(len(norms) - len(finite))
    metrics["train/lr"] = max(float(rate) for rate in state.schedule.get_last_lr())
    metrics["train/phase"] = state.phase + 1.0
    metrics["diverged"] = float(not finite and not state.finds_its_scale)
    metrics["first_step_at"] = state.first_step_at
    under_way.counts = _counts(state)
    return metrics | under_way.counts


def _counts(state: Fit) -> Metrics:
    """What the family counted in this epoch, over all workers; see `Segmenter`."""
    counted, before = state.network.take_counts(), state.under_way.counts
    here = {f"train/{name}": sum(state.workers.gather([count])) for name, count in counted.items()}
    return {name: here.get(name, 0.0) + before.get(name, 0.0) for name in before | here}


def _finite_mean(values: list[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _add_gradients(
    state: Fit, parallel: nn.Module, step: Sequence[Batch], counts: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Add up the gradients of one step of the optimiser; its loss terms, as a mean over the workers."""
    terms: dict[str, torch.Tensor] = {}
    of_batches = shares(state.network, step, counts, workers=state.workers)
    for number, (batch, share) in enumerate(zip(step, of_batches, strict=True), start=1):
        with nullcontext() if number == len(step) else state.workers.unsynchronised(parallel):
            with state.pace.part("forward"):
                found = _losses(state, parallel, batch, share)
            with state.pace.part("backward"):
                state.network.backward(state.scaler.scale(found["loss"]))
        for name, value in found.items():
            terms[name] = value.detach().float() + terms.get(name, 0.0)
    return terms


def _losses(state: Fit, parallel: nn.Module, batch: Batch, share: Share) -> dict[str, torch.Tensor]:
    """The loss and its terms, each the batch's part of the step's."""
    with autocast(state.run.train.precision, state.workers.device):
        terms: dict[str, torch.Tensor] = parallel(on_device(batch, state.workers.device))
    terms, weights = dict(terms), {**state.loss_weights, _BALANCE: 1.0}
    balance = adapters.balance_loss(state.network)
    if balance is not None:
        terms[_BALANCE] = balance
    terms = {name: value * share(name) for name, value in terms.items()}
    return {**terms, "loss": torch.stack([(weights[name] * value).float() for name, value in terms.items()]).sum()}


def _train_mode(network: nn.Module) -> None:
    """Training mode, but for batch norms that are frozen: a frozen layer keeps the statistics it was trained with."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not adapters.trained_names(module):
            module.eval()


def _check_gradients(state: Fit) -> None:
    """After the first step of a phase: every trained parameter must have a gradient on some worker.

    Raises:
        SpecError: one has none; data-parallel training would stop with a number in place of its name.
    """
    unused = [name for name, p in state.network.named_parameters() if p.requires_grad and p.grad is None]
    nowhere = set.intersection(*map(set, state.workers.gather([unused])))
    wrong = sorted(n for n in nowhere if not n.startswith(state.family.sometimes_unused))
    if wrong:
        raise SpecError(
            f"Every trained parameter must be used, but {len(wrong)} got no gradient in the first step: "
            f"{', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}. Where `train.adapter.targets` names layers, "
            "name others; otherwise the family must freeze them when it builds the model, or declare them as "
            "`sometimes_unused`."
        )
    state.gradients_checked = True


def _check_loss(state: Fit, number: int, terms: Mapping[str, torch.Tensor]) -> None:
    wrong = [name for name, value in terms.items() if not torch.isfinite(value)]
    wrong = sorted(set(state.workers.gather(wrong)))
    if wrong and not state.finds_its_scale:
        raise LossNotFiniteError(number, wrong)


def _step(state: Fit, number: int, terms: Mapping[str, torch.Tensor]) -> float:
    """Move the parameters once; the norm of the gradient before clipping.

    Raises:
        LossNotFiniteError: the loss is not, on any worker, and nothing moved; all workers raise it.
    """
    trained = [(name, p) for name, p in state.network.named_parameters() if p.requires_grad]
    parameters = [p for _, p in trained]
    average_scalars(parameters, state.workers)  # before: all workers have to find the same scale
    unscale(state.scaler, state.optimizer, parameters)
    forget_unused([p for name, p in trained if name.startswith(state.family.sometimes_unused)], state.workers)
    norm = clip_gradients(parameters, state.run.train.grad_clip)
    moves = math.isfinite(norm)
    if not moves:
        _check_loss(state, number, terms)  # on all workers, whose gradients are averaged
        state.optimizer.zero_grad(set_to_none=True)  # without gradients the step moves nothing
    state.optimizer.step()
    state.scaler.update()
    if state.averages and moves:
        state.averages.update()
    state.schedule.step()
    state.optimizer.zero_grad(set_to_none=True)
    return norm
