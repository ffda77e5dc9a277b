"""Training a mask codec: a VQ-VAE (van den Oord et al. 2017) with a codebook of moving averages (appendix A.1)."""

import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, embedding, mse_loss

from segdist.core import storage
from segdist.core.errors import WeightsError
from segdist.core.spec import Strict
from segdist.nets.paligemma.answers import CODEBOOK_SIZE
from segdist.nets.paligemma.codec import CODE_DIM, GRID, MaskCodec

Progress = Callable[[str], None]
_DECAY = 0.98
_STEPS_BETWEEN_SAVES = 100
_FEWEST = 1e-3
"""Share of the even use below which a code is dead and starts anew from a vector of the batch."""


class CodecTraining(Strict):
    """How a codec is trained."""

    steps: PositiveInt = 20000
    """Steps of the optimiser."""
    minutes: PositiveFloat | None = None
    """Stop in time: the learning rate falls to zero by then, however many steps were done. A training that goes on
    after it was killed has all the minutes again."""
    batch_size: PositiveInt = 64
    """Masks a step."""
    lr: PositiveFloat = 2e-3
    """Peak learning rate of AdamW; it falls to zero by a cosine."""
    continuous: float = Field(default=0.15, ge=0, lt=1)
    """Share of the steps before the codebook comes in, which then starts from k-means of what the encoder says."""
    commitment: float = Field(default=0.25, ge=0)
    """How much the encoder is drawn to its codes (equation 3)."""
    dice: float = Field(default=1.0, ge=0)
    """Weight of the Dice loss beside cross-entropy; it is what thin masks need."""
    bfloat16: bool = True
    """Compute convolutions in bfloat16: twice as fast on processors that have it."""
    seed: int = 0
    """Seed of weights, order and flips."""


@dataclass
class _Codebook:
    """Code vectors as moving averages of what was assigned to them."""

    vectors_KD: Tensor
    counts_K: Tensor
    sums_KD: Tensor

    @classmethod
    def of(cls, flat_PD: Tensor, generator: torch.Generator) -> "_Codebook":
        """Ten rounds of k-means."""
        chosen = torch.randperm(len(flat_PD), generator=generator)[:CODEBOOK_SIZE]
        vectors_KD = flat_PD[chosen].clone()
        for _ in range(10):
            nearest_P = torch.cdist(flat_PD, vectors_KD).argmin(1)
            counts_K, sums_KD = _totals(flat_PD, nearest_P)
            filled = counts_K > 0
            vectors_KD[filled] = sums_KD[filled] / counts_K[filled, None]
        ones_K = torch.ones(CODEBOOK_SIZE)
        return cls(vectors_KD, ones_K, vectors_KD.clone())

    def update(self, flat_PD: Tensor, nearest_P: Tensor, generator: torch.Generator) -> None:
        """Move the vectors to what the batch assigned to them; dead ones start anew."""
        counts_K, sums_KD = _totals(flat_PD, nearest_P)
        even = len(flat_PD) / CODEBOOK_SIZE
        self.counts_K.mul_(_DECAY).add_(counts_K / even, alpha=1 - _DECAY)
        self.sums_KD.mul_(_DECAY).add_(sums_KD / even, alpha=1 - _DECAY)
        dead = self.counts_K < _FEWEST
        if dead.any():
            chosen = torch.randint(len(flat_PD), (int(dead.sum()),), generator=generator)
            self.sums_KD[dead], self.counts_K[dead] = flat_PD[chosen], 1.0
        self.vectors_KD.copy_(self.sums_KD / self.counts_K[:, None])


def train_codec(
    covers_NSS: NDArray[np.uint8], settings: CodecTraining, *, progress: Progress, state: Path | None = None
) -> MaskCodec:
    """Train a codec on squares of masks; every square is also shown mirrored and turned.

    Args:
        covers_NSS: (N, 64, 64) from `crops.crop`.
        settings: how.
        progress: gets a line now and then.
        state: a file to save to every 100 steps and to go on from; it is removed at the end.
    """
    training = _Training.begun(settings)
    clock = _Clock(settings)
    batches = _batches(covers_NSS, settings)
    if state is not None and state.exists():
        training.load(state)
        progress(f"goes on after step {training.done}")
        for _ in range(training.done):
            next(batches)
    for step, batch_N1SS in enumerate(batches, training.done + 1):
        share = clock.share(step)
        if share >= 1:
            break
        if training.codebook is None and share >= settings.continuous:
            training.begin_codebook(_said(training.codec, covers_NSS, settings))
        training.step(batch_N1SS, share)
        if state is not None and step % _STEPS_BETWEEN_SAVES == 0:
            training.save(state)
        if step % 200 == 0:
            progress(f"{share:4.0%} step {step} " + " ".join(f"{k} {v:.4f}" for k, v in training.means.items()))
    if state is not None:
        state.unlink(missing_ok=True)
    return training.codec.eval().requires_grad_(requires_grad=False)


@dataclass
class _Training:
    """All that changes from step to step."""

    settings: CodecTraining
    codec: MaskCodec
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    codebook: _Codebook | None = None
    done: int = 0
    means: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begun(cls, settings: CodecTraining) -> "_Training":
        torch.manual_seed(settings.seed)
        codec = MaskCodec()
        codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        optimizer = torch.optim.AdamW(codec.parameters(), lr=settings.lr, weight_decay=1e-4)
        return cls(settings, codec, optimizer, torch.Generator().manual_seed(settings.seed))

    def begin_codebook(self, flat_PD: Tensor) -> None:
        self.codebook = _Codebook.of(flat_PD, self.generator)
        self.codec.codebook_KD = self.codebook.vectors_KD

    def step(self, batch_N1SS: Tensor, share: float) -> None:
        self.done += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * min(1, self.done / 100) * (1 + math.cos(math.pi * share)) / 2
        terms = self._terms(batch_N1SS)
        self.optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        torch.nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
        self.optimizer.step()
        now = {name: float(value.detach()) for name, value in terms.items()}
        self.means = {name: 0.98 * self.means.get(name, value) + 0.02 * value for name, value in now.items()}

    def _terms(self, batch_N1SS: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            embedded_NhwD = self.codec.embed(batch_N1SS).float()
        flat_PD = embedded_NhwD.reshape(-1, CODE_DIM)
        terms: dict[str, Tensor] = {}
        if self.codebook is not None:
            nearest_P = self.codec.nearest(embedded_NhwD.detach()).reshape(-1)
            vectors_PD = embedding(nearest_P, self.codec.codebook_KD)
            terms["commit"] = self.settings.commitment * mse_loss(flat_PD, vectors_PD)
            self.codebook.update(flat_PD.detach(), nearest_P, self.generator)
            flat_PD = flat_PD + (vectors_PD - flat_PD).detach()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            logits_NSS = self.codec.unembed(flat_PD.reshape(-1, GRID, GRID, CODE_DIM)).float()
        return terms | _losses(logits_NSS, batch_N1SS[:, 0], self.settings.dice)

    def save(self, file: Path) -> None:
        """Everything a killed training needs to go on as if nothing had happened; atomically."""
        content = io.BytesIO()
        torch.save(
            {
                "settings": self.settings.model_dump(mode="json"),
                "done": self.done,
                "means": self.means,
                "codec": self.codec.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "codebook": vars(self.codebook) if self.codebook else None,
            },
            content,
        )
        storage.write_atomic(str(file), content.getvalue())

    def load(self, file: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            WeightsError: it was written with other settings.
        """
        saved = torch.load(file, weights_only=True)
        if saved["settings"] != self.settings.model_dump(mode="json"):
            raise WeightsError(
                f"{file} was saved by a training with other settings. Remove it to start anew, or use those settings."
            )
        self.codec.load_state_dict(saved["codec"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        self.done, self.means = saved["done"], saved["means"]
        if saved["codebook"] is not None:
            self.codebook = _Codebook(**saved["codebook"])
            self.codec.codebook_KD = self.codebook.vectors_KD


def _losses(logits_NSS: Tensor, cover_NSS: Tensor, dice_weight: float) -> dict[str, Tensor]:
    """Cross-entropy against the coverage, and Dice of each mask (Milletari et al. 2016)."""
    likely_NSS = logits_NSS.sigmoid()
    common_N = (likely_NSS * cover_NSS).sum((1, 2))
    whole_N = likely_NSS.square().sum((1, 2)) + cover_NSS.square().sum((1, 2))
    return {
        "bce": binary_cross_entropy_with_logits(logits_NSS, cover_NSS),
        "dice": dice_weight * (1 - 2 * common_N / whole_N.clamp(min=1e-3)).mean(),
    }


@dataclass
class _Clock:
    """How far training has come, by steps or by time, whichever is further."""

    settings: CodecTraining
    started: float = -1.0

    def share(self, step: int) -> float:
        self.started = time.monotonic() if self.started < 0 else self.started
        by_steps = (step - 1) / self.settings.steps
        if self.settings.minutes is None:
            return by_steps
        return max(by_steps, (time.monotonic() - self.started) / 60 / self.settings.minutes)


def _batches(covers_NSS: NDArray[np.uint8], settings: CodecTraining) -> Iterator[Tensor]:
    """Batches without end, each square in one of its eight orientations."""
    rng = np.random.default_rng(settings.seed)
    while True:
        order = rng.permutation(len(covers_NSS))
        for start in range(0, len(order), settings.batch_size):
            batch_NSS = covers_NSS[np.sort(order[start : start + settings.batch_size])]
            turned = np.stack([_turned(square, int(rng.integers(8))) for square in batch_NSS])
            yield torch.from_numpy(turned)[:, None].float() / 255


def _turned(square_SS: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    square_SS = square_SS.T if orientation & 1 else square_SS
    square_SS = square_SS[::-1] if orientation & 2 else square_SS
    return square_SS[:, ::-1] if orientation & 4 else square_SS


@torch.no_grad()
def _said(codec: MaskCodec, covers_NSS: NDArray[np.uint8], settings: CodecTraining) -> Tensor:
    """What the encoder says about two thousand squares, as k-means takes it."""
    some = np.random.default_rng(settings.seed).choice(len(covers_NSS), min(len(covers_NSS), 2000), replace=False)
    parts = [torch.from_numpy(covers_NSS[np.sort(p)])[:, None].float() / 255 for p in np.array_split(some, 32)]
    return torch.cat([codec.embed(part).reshape(-1, CODE_DIM) for part in parts if len(part)])


def _totals(flat_PD: Tensor, nearest_P: Tensor) -> tuple[Tensor, Tensor]:
    counts_K = torch.bincount(nearest_P, minlength=CODEBOOK_SIZE).float()
    return counts_K, torch.zeros(CODEBOOK_SIZE, CODE_DIM).index_add_(0, nearest_P, flat_PD)
