"""A trial that memory does not hold is given again with half the images at once; what never fits is kept away from."""

from pathlib import Path
from typing import Any

import pytest

from segdist.core.text import counted
from segdist.searching import Epoch, Ledger, Search, Trial
from segdist.searching.memory import Sizes, micro_batch_like
from tests.searching.sweeps import begun, run, sweep

SPACE = {
    "model.unet_cbam.image_size": {"low": 64, "high": 1024, "step": 64},
    "train.batch_size": [4, 8],
}


def begin(search: Search) -> Trial:
    trial = search.next()
    assert trial
    return search.start(trial.number)


def test_the_images_at_once_are_halved_down_to_one_and_never_count_as_a_failure(tmp_path: Path) -> None:
    search = begun(sweep(asha=None), tmp_path)
    first = begin(search)
    search.report(first.number, {"epoch": 1, "val/iou": 0.1}, "place/1")
    tried = []
    for _ in range(3):
        again = search.out_of_memory(first.number, "the card is full")
        less = again.micro_batch or 0
        said = f"with {counted(less, 'image')} at once instead of {2 * less}: the card is full"
        assert (again.state, again.reason) == ("waiting", said)
        given = search.next()
        assert given
        assert (given.number, given.latest and given.latest.uri) == (first.number, "place/1"), "before any other"
        tried.append(given.micro_batch)
        search.start(first.number)
    assert tried == [4, 2, 1]
    for epoch in range(2, 10):
        search.report(first.number, {"epoch": epoch, "val/iou": 0.1}, f"place/{epoch}")
    ended = search.end(first.number)
    assert (ended.state, ended.micro_batch, ended.broken, ended.last_epoch) == ("finished", 1, {}, 9)


@pytest.mark.parametrize("space", [None, SPACE])
def test_one_that_does_not_fit_one_image_at_a_time_is_infeasible_also_after_another_start(
    tmp_path: Path, space: dict[str, Any] | None
) -> None:
    spec = sweep(space=space)
    search = begun(spec, tmp_path)
    number = begin(search).number
    for _ in range(4):
        trial = search.out_of_memory(number, "the card is full")
        if not trial.has_ended:
            begin(search)
    assert (trial.state, trial.too_large, trial.broken) == ("infeasible", True, {"memory": 1.0})
    assert trial.reason == "with one image at a time: the card is full"
    assert (search.done, search.best) == (1, None)
    again = begun(spec, tmp_path)
    assert again.ledger[number] == trial
    assert number not in run(again)


def test_a_batch_over_workers_and_one_in_parts_is_halved_from_what_a_worker_holds(tmp_path: Path) -> None:
    content = sweep().model_dump()
    for resources, held in (({"workers": 2}, 4), ({"micro_batch": 3}, 3), ({"workers": 2, "micro_batch": 7}, 4)):
        spec = type(sweep()).model_validate({**content, "resources": resources})
        search = begun(spec, tmp_path / str(resources))
        trial = begin(search)
        assert search.micro_batch(trial) == held
        assert search.out_of_memory(trial.number, "").micro_batch == 2


def test_later_trials_of_the_same_size_begin_with_what_fitted(tmp_path: Path) -> None:
    search = begun(sweep(), tmp_path)
    first = begin(search)
    search.out_of_memory(first.number, "")
    assert [begin(search).micro_batch for _ in range(2)] == [4, 4], "what is searched does not change the size"

    trials = [
        Trial(number=n, values={"model.family": family, "train.batch_size": 8, "train.lr": lr}, micro_batch=held)
        for n, (family, lr, held) in enumerate([("sam", 0.1, 4), ("sam", 0.2, 2), ("segformer", 0.1, None)])
    ]
    like = Trial(number=9, values={"model.family": "sam", "train.batch_size": 8, "train.lr": 0.3})
    assert micro_batch_like(like, trials) == 2
    assert micro_batch_like(trials[2], trials) is None
    assert (
        micro_batch_like(like.model_copy(update={"values": {"model.family": "sam", "train.batch_size": 4}}), trials)
        is None
    )


def test_values_nearer_to_what_never_fitted_than_to_what_did_are_too_large() -> None:
    spec = sweep(space={**SPACE, "model.family": ["unet_cbam", "segformer"]})
    sizes, of = Sizes(spec.space), {"model.family": "unet_cbam", "train.batch_size": 8, "train.lr": 0.001}
    large = {**of, "model.unet_cbam.image_size": 1024}
    assert not sizes.is_too_large(large)
    sizes.note(Trial(number=0, values=large, too_large=True))
    fitting = {**of, "model.unet_cbam.image_size": 64}
    assert sizes.is_too_large(fitting), "nothing else is known"
    sizes.note(Trial(number=1, values=fitting, epochs=(Epoch(epoch=1, metrics={}),)))
    assert not sizes.is_too_large({**fitting, "train.batch_size": 4, "train.lr": 0.01})
    assert sizes.is_too_large({**large, "train.batch_size": 4, "train.lr": 0.01})
    assert not sizes.is_too_large({**of, "model.unet_cbam.image_size": 512})
    assert sizes.is_too_large({**of, "model.unet_cbam.image_size": 576})
    assert not Sizes({"train.lr": spec.space["train.lr"]}).is_too_large({"train.lr": 0.1})


@pytest.mark.parametrize("sampler", ["tpe", "random", "quasi_random"])
def test_a_search_keeps_away_from_what_memory_never_held(tmp_path: Path, sampler: str) -> None:
    """Images above 512 pixels do not fit; those score higher where they do."""
    search = begun(sweep(space=SPACE, trials=30, sampler=sampler, asha=None), tmp_path)
    lost: list[bool] = []
    while trial := search.next():
        trial = search.start(trial.number)
        size = trial.values["model.unet_cbam.image_size"]
        is_lost = size > 512
        lost += [is_lost] if not is_lost or search.micro_batch(trial) == 1 else []
        if is_lost:
            search.out_of_memory(trial.number, "")
        else:
            search.report(trial.number, {"epoch": 1, "val/iou": size / 1024}, "")
            search.end(trial.number)
    further = lost[[n for n, one in enumerate(lost) if one][1] + 1 :]
    assert sum(further) <= 0.1 * len(further)
    trials = Ledger(str(tmp_path)).trials
    assert {t.state for t in trials if t.values["model.unet_cbam.image_size"] > 512} == {"infeasible"}
    assert "failed" not in {t.state for t in trials}
