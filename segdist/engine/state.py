"""The state of one fit: the model, what moves it, how far it came; its phases and its checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segdist import adapters
from segdist.core import storage
from segdist.core.errors import SpecError
from segdist.core.plugins import Family
from segdist.core.spec import RunSpec
from segdist.engine import checkpoint
from segdist.engine.averaging import AveragedWeights, moving, put
from segdist.engine.divided import divided_states, whole, whole_states
from segdist.engine.pace import Pace
from segdist.engine.parts import MODEL, TRAINING
from segdist.engine.precision import scaler_for
from segdist.engine.schedule import adamw, rates
from segdist.engine.under_way import Kept, UnderWay
from segdist.engine.workers import Workers
from segdist.nets.segmenter import Segmenter


def kept_name(step: int) -> str:
    """The folder of a model that was kept after this many steps."""
    return f"step-{step:07d}"


@dataclass
class Fit:
    """The state of one fit: the model, what moves it, and how far it came.

    Attributes:
        run: what is trained and how.
        network: the model, with its adapter in place; on its device, or divided over the workers.
        family: what the model's family declares.
        workers: this process's place among the workers.
        loss_weights: of each term.
        steps_per_epoch: steps of the optimiser.
        trainable: names of the parameters that some phase trains.
        averages: the moving average of the weights; None without `train.ema`.
        scaler: of the loss; does nothing but in float16.
        is_sharded: whether the network is divided over the workers.
        halvings: times that the learning rate was halved, because the loss was not finite.
        pace: what training takes.
        epoch: epochs done.
        steps: steps of the optimiser done.
        kept: folder or prefix for the models of `train.keep_every`.
        first_step_at: seconds since 1970.
        gradients_checked: whether the first step has shown that every trained parameter is used.
        under_way: the steps of the next epoch that are done.
        leave: asked after every step and scored image; whether this worker is to leave.
    """

    run: RunSpec
    network: Segmenter
    family: Family
    workers: Workers
    loss_weights: Mapping[str, float]
    steps_per_epoch: int
    trainable: frozenset[str] = field(init=False)
    averages: AveragedWeights | None = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    schedule: torch.optim.lr_scheduler.LRScheduler = field(init=False)
    halvings: int = 0
    pace: Pace = field(default_factory=Pace)
    phase: int = -1
    epoch: int = 0
    steps: int = 0
    kept: str = ""
    first_step_at: float = 0.0
    gradients_checked: bool = False
    is_sharded: bool = False
    under_way: UnderWay = field(default_factory=UnderWay)
    leave: Callable[[], bool] | None = None
    _saved: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trainable = adapters.trained_names(self.network)
        self.averages = self._averages()
        self.scaler = scaler_for(self.run.train.precision, self.workers.device)

    @property
    def finds_its_scale(self) -> bool:
        """Whether a step that is not finite may be one that a smaller scale mends: it halves with each."""
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1

    def _averages(self, *, steps: int = 0) -> AveragedWeights | None:
        share = self.run.train.ema
        return AveragedWeights(self.network, self.trainable, half_life=share, steps=steps) if share else None

    def model(self) -> AbstractContextManager[None]:
        """Within the block the network is the model that is scored and saved: the averaged one, where weights are."""
        return self.averages.in_place() if self.averages else nullcontext()

    def gathered(self) -> AbstractContextManager[None]:
        """Within the block this worker holds all weights, and may use them without the others."""
        if not self.is_sharded:
            return nullcontext()
        from segdist.engine import sharding

        return sharding.gathered(self.network)

    def enter(self, number: int) -> None:
        """Begin a phase, or go on in it: what it trains, and an optimiser and schedule of its own.

        Raises:
            SpecError: the phase trains nothing.
        """
        phase = self.run.train.all_phases[number]
        frozen = self.family.encoder if phase.freeze == "encoder" else ()
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in self.trainable and not name.startswith(frozen))
        if not adapters.trained_names(self.network):
            raise SpecError(
                f"`train.phases.{number}` must train something, but it freezes the encoder, and "
                f"`train.adapter.kind: {self.run.train.adapter.kind}` trains nothing beside it"
            )
        if self.averages:
            self.averages.settle(self.trainable - adapters.trained_names(self.network))
        self.optimizer = adamw(
            self.network,
            phase,
            weight_decay=self.run.train.weight_decay,
            encoder=self.family.encoder,
            layer_decay=self.run.train.layer_decay,
            blocks=self.family.encoder_blocks,
        )
        for group in self.optimizer.param_groups:
            group["lr"] /= 2**self.halvings
        self.schedule = schedule = rates(self.optimizer, phase, steps=self.steps_per_epoch * phase.epochs)
        if self._saved.get("phase") == number:
            self._go_on_in_phase(schedule)
        self._saved = {}
        self.phase, self.gradients_checked = number, False

    def _go_on_in_phase(self, schedule: torch.optim.lr_scheduler.LambdaLR) -> None:
        """Take up optimiser and schedule where they were saved, at the rates of now, which may have been halved."""
        peaks = list(schedule.base_lrs)
        self.optimizer.load_state_dict(divided_states(self._saved["optimizer"], self.optimizer))
        schedule.load_state_dict({**self._saved["schedule"], "base_lrs": peaks})
        for group, peak, factor in zip(self.optimizer.param_groups, peaks, schedule.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = peak, peak * factor(schedule.last_epoch)

    @property
    def is_to_leave(self) -> bool:
        """Whether any worker is to; each asks after every step."""
        return self.leave is not None and self.workers.totals([float(self.leave())])[0] > 0

    def save(self, folder: Path, *, under_way: Kept | None = None) -> None:
        """Write the model, and what training needs to go on: with averages, the weights that it moves too.

        Every worker calls it, and the chief writes.

        Args:
            folder: to write into.
            under_way: the state of an epoch that is not over.
        """
        if not self._has_to_save():
            return
        with self.model():
            model = checkpoint.content(self.network, self.run, self.network.classes, trained=self.trainable)
            if self.workers.is_chief:
                checkpoint.write(folder / MODEL, *model)
        state = {
            "optimizer": whole_states(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "halvings": self.halvings,
            "phase": self.phase,
            "epoch": self.epoch,
            "under_way": under_way,
        }
        if self.averages:
            moved = moving(self.network, self.trainable)
            weights = {name: whole(value.detach()).cpu() for name, value in moved.items()}
            state["averaged"] = {"steps": self.averages.steps, "weights": weights}
        if self.workers.is_chief:
            torch.save(state, folder / TRAINING)

    def _has_to_save(self) -> bool:
        """Whether this worker takes part in saving: where each has a part of the network, all of them."""
        return self.workers.is_chief or self.is_sharded

    def count_step(self) -> None:
        """Count a step of the optimiser; the model is kept every `train.keep_every` steps."""
        self.steps += 1
        every = self.run.train.keep_every
        if every and self.kept and self.steps % every == 0 and self._has_to_save():
            with self.model():
                model = checkpoint.content(self.network, self.run, self.network.classes, trained=self.trainable)
                if self.workers.is_chief:
                    checkpoint.upload(storage.join(self.kept, kept_name(self.steps)), *model)

    def resume(self, folder: Path) -> None:
        """Go on where a checkpoint was written, whose model the network already is."""
        self._saved = torch.load(folder / TRAINING, weights_only=True, map_location="cpu")
        self.epoch = self._saved["epoch"]
        self.halvings = max(self.halvings, self._saved.get("halvings", 0))
        if under_way := self._saved.pop("under_way", None):
            self.under_way = UnderWay.of(under_way)
        self.steps = self.epoch * self.steps_per_epoch + self.under_way.steps
        if self._saved.get("scaler"):
            self.scaler.load_state_dict(self._saved["scaler"])
        averaged = self._saved.pop("averaged", {"steps": self.steps, "weights": {}})
        self.averages = self._averages(steps=averaged["steps"])
        put(averaged["weights"], moving(self.network, self.trainable))

    def finished(self) -> Segmenter:
        """The network, as the model that it has become."""
        if self.averages:
            self.averages.exchange()
        return self.network

    def reseed(self) -> None:
        """Seed dropout and jitter for the epoch: other draws on each worker, the same ones after a resumption."""
        seeds = np.random.SeedSequence((self.run.seed, self.epoch, self.workers.rank))
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))

    def remaining(self) -> Iterator[tuple[int, range]]:
        """The phases that are not over, with their epochs still to do."""
        stop = 0
        for number, phase in enumerate(self.run.train.all_phases):
            start, stop = stop, stop + phase.epochs
            if self.epoch < stop:
                yield number, range(max(start, self.epoch), stop)
