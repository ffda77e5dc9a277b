"""How often images are drawn follows their weights exactly, the same on every worker and after a resumption."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdist.core.errors import SpecError
from segdist.core.records import HUMAN, Instance, LabelledImages, Sample
from segdist.core.spec import SamplingSpec
from segdist.engine.data import EpochBatches, loader
from segdist.engine.fit import fit
from segdist.engine.sampling import epoch_order, image_weights
from segdist.models.unet_cbam import Options
from segdist.models.unet_cbam.network import UnetCbam
from tests.engine.drawn import CLASSES, Reports, roofs, tiny_run, weights

WEIGHTS = np.array([0.05, 1, 1, 2.5, 0.3, 7, 1, 1.15])


def times(epoch: int, weights_N: np.ndarray = WEIGHTS, *, seed: int = 3) -> np.ndarray:
    """(N,) how often an epoch draws each image."""
    count = len(weights_N)
    drawn = epoch_order(count, np.random.default_rng((seed, epoch)), weights_N)
    assert len(drawn) == count, "an epoch is as long as without weights"
    assert len(set(drawn.tolist())) == count, "a repetition has a number of its own"
    for image, numbers in Counter((drawn % count).tolist()).items():
        assert set(drawn[drawn % count == image] // count) == set(range(numbers))
    return np.bincount(drawn % count, minlength=count)


def test_every_epoch_draws_each_image_as_often_as_its_weight_says_but_for_less_than_one() -> None:
    expected = len(WEIGHTS) * WEIGHTS / WEIGHTS.sum()
    drawn = np.array([times(epoch) for epoch in range(400)])
    assert (np.abs(drawn - expected) < 1).all()
    assert {0, 1} <= set(drawn[:, 0].tolist()), "chance decides about the fraction"


def test_whole_expectations_are_met_in_every_epoch() -> None:
    weights_N = np.array([4.0, 2, 1, 1, 0.5, 0.5, 0.5, 0.5]) * 0.3  # expected 3.2, 1.6, 0.8, ...
    whole_N = np.array([3.0, 2, 1, 1, 1])  # of 8 for 5 images: not whole
    assert (times(0, np.ones(6)) == 1).all()
    assert (np.abs(times(1, weights_N) - 8 * weights_N / weights_N.sum()) < 1).all()
    assert (np.abs(times(2, whole_N) - 5 * whole_N / 8) < 1).all()
    assert times(5, np.array([3.0, 1, 1e-9, 1e-9]) + 0).tolist() == [3, 1, 0, 0]


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_no_image_is_lost_to_rounding(count: int) -> None:
    rng = np.random.default_rng(0)
    for epoch in range(50):
        times(epoch, rng.uniform(1e-3, 1e3, count))


def test_without_weights_the_order_is_the_one_it_was() -> None:
    found = epoch_order(9, np.random.default_rng((7, 2)))
    assert found.tolist() == np.random.default_rng((7, 2)).permutation(9).tolist()


def test_workers_share_what_one_process_would_draw() -> None:
    def drawn(rank: int, world_size: int, epoch: int) -> list[int]:
        batches = EpochBatches(8, batch_size=2, micro_batch=1, seed=3, rank=rank, world_size=world_size)
        batches.epoch, batches.weights = epoch, WEIGHTS
        return [index for batch in batches for _, index in batch]

    assert sorted(drawn(0, 2, 4) + drawn(1, 2, 4)) == sorted(drawn(0, 1, 4))
    assert drawn(0, 1, 4) != drawn(0, 1, 5)


def samples(*images: dict[str, Any]) -> LabelledImages:
    """Images with the labels of their objects."""
    box = (0.0, 0.0, 4.0, 4.0)
    return [
        (
            Sample(
                str(number),
                "",
                (8, 8),
                tuple(Instance(label, None, box) for label in image.pop("labels", ())),
                **image,
            ),
            b"",
        )
        for number, image in enumerate(images)
    ]


def test_the_weight_of_an_image_is_that_of_its_rarest_class() -> None:
    rows = samples({"labels": ["a"]}, {"labels": ["a", "b"]}, {"labels": ["a", "a"]}, {})
    found = image_weights(SamplingSpec(classes="inverse_sqrt"), rows, ("a", "b", "never"))
    assert found.tolist() == pytest.approx([(3 / 4) ** -0.5, 2, (3 / 4) ** -0.5, 1])
    assert image_weights(SamplingSpec(classes="inverse"), rows, ("a", "b")).tolist() == pytest.approx(
        [4 / 3, 4, 4 / 3, 1]
    )
    given = SamplingSpec(classes={"b": 5.0, "a": 0.5})
    assert image_weights(given, rows, ("a", "b")).tolist() == [0.5, 5, 0.5, 1]
    assert image_weights(SamplingSpec(), rows, ("a", "b")).tolist() == [1, 1, 1, 1]


def test_weights_of_class_group_and_labels_multiply() -> None:
    rows = samples(
        {"labels": ["a"], "group": "night", "source": "sam-1"}, {"labels": ["a"], "group": "night"}, {"source": HUMAN}
    )
    spec = SamplingSpec(classes={"a": 3.0}, groups={"night": 2.0}, labels={"teacher": 0.5})
    assert image_weights(spec, rows, ("a",)).tolist() == [3, 6, 1]


@pytest.mark.parametrize(
    ("spec", "named"),
    [({"classes": {"rooof": 2}}, "roof"), ({"groups": {"nigth": 2}}, "night")],
)
def test_a_weight_for_what_no_image_has_is_refused(spec: dict[str, Any], named: str) -> None:
    rows = samples({"labels": ["roof"], "group": "night"})
    key = next(iter(spec))
    with pytest.raises(SpecError, match=rf"`train\.sampling\.{key}` names `\w+`, .* Did you mean `{named}`\?"):
        image_weights(SamplingSpec.model_validate(spec), rows, ("roof",))


def test_an_image_that_comes_twice_is_augmented_anew() -> None:
    rows = roofs(3)
    run = tiny_run(augment=["brightness"], sampling={"classes": {"roof": 1.0}})
    network = UnetCbam(Options(image_size=32, width=8, depth=2), CLASSES)
    batches, sampler = loader(network, rows, run, rank=0, world_size=1, pin_memory=False)
    sampler.weights = np.array([1.0, 1e-9, 1e-9])
    (batch,) = batches
    assert len({image.tobytes() for image in batch["images"].numpy()}) == 3


def test_a_fit_with_weights_resumes_to_the_same_bits(tmp_path: Path) -> None:
    rows = roofs(8)
    rows[0] = (Sample(**{**vars(rows[0][0]), "group": "night"}), rows[0][1])
    run = tiny_run(epochs=2, sampling={"classes": "inverse_sqrt", "groups": {"night": 4.0}})
    expected = weights(fit(run, CLASSES, train=rows, val=rows[:1], report=Reports(tmp_path)))
    found = weights(fit(run, CLASSES, train=rows, val=rows[:1], report=Reports(), resume=tmp_path / "1"))
    plain = fit(run.override({"train.sampling": None}), CLASSES, train=rows, val=rows[:1], report=Reports())
    assert not [name for name, value in expected.items() if not np.array_equal(value, found[name])]
    assert not np.array_equal(weights(plain)["head.weight"], expected["head.weight"])
