"""Shards to batches: the order of the images, their augmentation and their stacking, reproducible from a seed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from segdist.augment import Recipes
from segdist.core.plugins import Batch, Example
from segdist.core.records import LabelledImages, Sample
from segdist.core.spec import RunSpec
from segdist.engine.sampling import Weights, epoch_order, image_weights
from segdist.nets.segmenter import Segmenter
from segdist.reading.examples import make_example

EpochIndex = tuple[int, int]
"""An epoch, and an image as `epoch_order` calls it."""


@dataclass(frozen=True)
class Examples(Dataset[Example]):
    """Augmented examples; the same (epoch, index) gives the same example on every machine."""

    rows: LabelledImages
    classes: tuple[str, ...]
    image_size: int
    recipes: Recipes
    seed: int
    ignore_band: int = 0
    soft_band: bool = False

    def __getitem__(self, where: EpochIndex) -> Example:
        epoch, index = where
        rng = np.random.default_rng((self.seed, epoch, index))
        sample, image_bytes = self.rows[index % len(self.rows)]
        return self._example(sample, image_bytes, rng, augment=self.recipes.of(sample), donor=lambda: self._donor(rng))

    def _donor(self, rng: np.random.Generator) -> Example:
        """Another image as it is, to paste from."""
        return self._example(*self.rows[int(rng.integers(len(self.rows)))], rng)

    def _example(self, sample: Sample, image_bytes: bytes, rng: np.random.Generator, **augmented: Any) -> Example:
        return make_example(
            sample,
            image_bytes,
            classes=self.classes,
            image_size=self.image_size,
            rng=rng,
            ignore_band=self.ignore_band,
            soft_band=self.soft_band,
            **augmented,
        )


class EpochBatches(Sampler[list[EpochIndex]]):
    """Micro-batches of one epoch for one worker.

    A step of the optimiser takes the next `batch_size` images of the epoch's order, whoever computes them and in how
    many passes: each worker its share of them, in micro-batches, all in as many passes. One that has no image left for
    a pass, as of a last, smaller batch, is given another's, which does not count, so that no worker waits for it.

    Args:
        count: images.
        batch_size: images of a step, over all workers.
        micro_batch: images of a worker and pass.
        seed: of the order.
        rank: this worker.
        world_size: workers.

    Attributes:
        epoch: chooses the order.
        first_step: of the epoch, before which nothing is given; 0 but where an epoch is gone on with.
        weights: (N,) how often each image is to be drawn; None draws each once.
    """

    def __init__(self, count: int, *, batch_size: int, micro_batch: int, seed: int, rank: int, world_size: int) -> None:
        self._count, self._batch_size, self._micro_batch, self._seed = count, batch_size, micro_batch, seed
        self._rank, self._world_size = rank, world_size
        self.epoch = self.first_step = 0
        self.weights: Weights | None = None

    def __len__(self) -> int:
        return sum(map(len, self.steps))

    def images_of(self, step: int) -> list[int]:
        """The images of a step of the epoch, on all workers."""
        order = epoch_order(self._count, np.random.default_rng((self._seed, self.epoch)), self.weights)
        taken = order[step * self._batch_size : (step + 1) * self._batch_size]
        return [int(index) % self._count for index in taken]

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        order = epoch_order(self._count, np.random.default_rng((self._seed, self.epoch)), self.weights)
        for start in range(self.first_step * self._batch_size, self._count, self._batch_size):
            step = order[start : start + self._batch_size]
            mine = step[self._rank :: self._world_size]
            for first in self._passes(len(step)):
                shown = mine[first : first + self._micro_batch]
                yield [(self.epoch, int(i)) for i in (shown if len(shown) else step[:1])]

    @property
    def steps(self) -> list[list[int]]:
        """For each step of the optimiser, the images that count in each of this worker's micro-batches."""
        sizes = [min(self._batch_size, self._count - start) for start in range(0, self._count, self._batch_size)]
        shares = [(len(range(self._rank, size, self._world_size)), self._passes(size)) for size in sizes]
        return [[max(0, min(self._micro_batch, n - first)) for first in passes] for n, passes in shares]

    def _passes(self, size: int) -> range:
        """For each pass of a step of so many images, the first of a worker's images in it."""
        return range(0, math.ceil(size / self._world_size), self._micro_batch)


def loader(
    network: Segmenter, rows: LabelledImages, run: RunSpec, *, rank: int, world_size: int, pin_memory: bool
) -> tuple[DataLoader[Batch], EpochBatches]:
    """Micro-batches of collated examples, and the sampler whose `epoch` chooses their order."""
    batches = EpochBatches(
        len(rows),
        batch_size=run.train.batch_size,
        micro_batch=run.resources.micro_batch or math.ceil(run.train.batch_size / world_size),
        seed=run.seed,
        rank=rank,
        world_size=world_size,
    )
    if run.train.sampling:
        batches.weights = image_weights(run.train.sampling, rows, network.classes)
    recipes = Recipes(run.train.augment, run.train.augment_classes, run.train.augment_groups)
    recipes.check(network.classes)
    examples = Examples(
        rows,
        network.classes,
        network.options.image_size,
        recipes,
        run.seed,
        ignore_band=run.train.noise.ignore_band,
        soft_band=run.train.noise.soft_band,
    )
    cpus = int(run.resources.cpus_per_worker)
    decoders = max(1, cpus) if pin_memory else max(0, cpus - 1)  # a GPU trains beside all CPUs, a CPU beside the others
    return (
        DataLoader(
            examples,  # type: ignore[arg-type]  # collating turns examples into batches
            batch_sampler=batches,
            collate_fn=network.collate,
            num_workers=decoders,
            pin_memory=pin_memory,
            persistent_workers=False,
        ),
        batches,
    )
