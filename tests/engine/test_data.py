"""Every step takes the same images, in an order that the seed decides, whoever computes them in how many passes."""

import pytest

from segdist.engine.data import EpochBatches, EpochIndex, loader
from segdist.models.unet_cbam import Options
from segdist.models.unet_cbam.network import UnetCbam
from tests.engine.drawn import CLASSES, roofs, tiny_run


def batches_of(
    count: int, *, rank: int = 0, world_size: int = 1, epoch: int = 0, batch_size: int = 4, micro_batch: int = 4
) -> EpochBatches:
    found = EpochBatches(
        count, batch_size=batch_size, micro_batch=micro_batch, seed=3, rank=rank, world_size=world_size
    )
    found.epoch = epoch
    return found


def images_of(batches: EpochBatches) -> list[list[int]]:
    """Of each step, those that count."""
    waiting, steps = iter(batches), list[list[int]]()
    for counts in batches.steps:
        taken: list[list[EpochIndex]] = [next(waiting) for _ in counts]
        assert all(epoch == batches.epoch for batch in taken for epoch, _ in batch)
        assert [len(batch) for batch in taken] == [n or 1 for n in counts]
        steps.append([index for batch, n in zip(taken, counts, strict=True) for _, index in batch[:n]])
    assert next(waiting, None) is None
    assert len(batches) == sum(map(len, batches.steps))
    return steps


@pytest.mark.parametrize("count", [1, 2, 4, 7, 9, 12])
@pytest.mark.parametrize("batch_size", [3, 4])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_steps_are_the_same_on_any_number_of_workers_and_in_any_micro_batches(
    count: int, batch_size: int, micro_batch: int, world_size: int
) -> None:
    whole = images_of(batches_of(count, batch_size=batch_size, micro_batch=batch_size))
    assert sorted(index for step in whole for index in step) == list(range(count))
    shared = [
        images_of(batches_of(count, batch_size=batch_size, micro_batch=micro_batch, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    together = [sorted(index for worker in shared for index in worker[n]) for n in range(len(whole))]
    assert together == [sorted(step) for step in whole]


def test_no_micro_batch_is_larger_than_it_may_be_and_a_worker_without_an_image_gets_one_that_does_not_count() -> None:
    first, second = (batches_of(9, micro_batch=1, rank=rank, world_size=2) for rank in range(2))
    assert first.steps == [[1, 1], [1, 1], [1]]
    assert second.steps == [[1, 1], [1, 1], [0]]
    assert [len(batch) for batch in second] == [1] * 5


def test_the_order_changes_with_the_epoch_and_repeats_with_the_seed() -> None:
    assert images_of(batches_of(20)) == images_of(batches_of(20))
    assert images_of(batches_of(20)) != images_of(batches_of(20, epoch=1))


@pytest.mark.parametrize(
    ("cpus", "on_gpu", "processes"), [(1, False, 0), (1, True, 1), (0.5, True, 1), (2, False, 1), (2, True, 2)]
)
def test_images_are_decoded_beside_training_and_beside_a_gpu_also_on_one_cpu(
    cpus: float, on_gpu: bool, processes: int
) -> None:
    run = tiny_run().override({"resources.cpus_per_worker": cpus})
    network = UnetCbam(Options(image_size=32, width=8, depth=2), CLASSES)
    batches, _ = loader(network, roofs(1), run, rank=0, world_size=1, pin_memory=on_gpu)
    assert batches.num_workers == processes
