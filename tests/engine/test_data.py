"""Every worker sees its share once an epoch, in an order that the seed decides."""

from segdist.engine.data import EpochBatches


def epoch_of(count: int, *, world_size: int, epoch: int = 0, batch_size: int = 2) -> list[list[int]]:
    workers = []
    for rank in range(world_size):
        batches = EpochBatches(count, batch_size=batch_size, seed=3, rank=rank, world_size=world_size)
        batches.epoch = epoch
        listed = list(batches)
        assert len(listed) == len(batches)
        assert all(e == epoch for batch in listed for e, _ in batch)
        workers.append([index for batch in listed for _, index in batch])
    return workers


def test_workers_share_the_images_without_overlap() -> None:
    first, second = epoch_of(10, world_size=2)
    assert sorted(first + second) == list(range(10))


def test_workers_take_the_same_number_of_steps_when_images_do_not_divide() -> None:
    workers = epoch_of(7, world_size=3)
    assert {len(w) for w in workers} == {3}
    assert {index for worker in workers for index in worker} == set(range(7))


def test_the_order_changes_with_the_epoch_and_repeats_with_the_seed() -> None:
    assert epoch_of(20, world_size=1) == epoch_of(20, world_size=1)
    assert epoch_of(20, world_size=1) != epoch_of(20, world_size=1, epoch=1)
