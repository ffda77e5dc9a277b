"""What a run minimises is what its spec and its data say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segdist.core import masks
from segdist.core.plugins import Example
from segdist.core.records import Evidence, Instance, Sample
from segdist.core.spec import NoiseSpec
from segdist.engine.fit import fit
from segdist.engine.objective import class_weights, objective_of
from segdist.models.unet_cbam import FAMILY
from segdist.nets.collate import certainty, instance_weights, score_maps
from segdist.reading.examples import make_example
from segdist.testing.pictures import example
from tests.engine.drawn import CLASSES, Reports, roofs, tiny_run
from tests.reading.test_examples import encoded

BOX = masks.from_box((0, 0, 5, 4), size_hw=(10, 10))
ROWS = [
    (Sample("a", "", (10, 10), (Instance("roof", BOX, BOX.box_xyxy),)), b""),
    (Sample("b", "", (10, 10)), b""),
]


def test_weights_are_the_familys_but_for_those_of_the_run() -> None:
    objective = objective_of(tiny_run(loss={"dice": 3.0}), FAMILY, ROWS, ("roof",))
    assert objective.weights == {**FAMILY.losses, "dice": 3.0}
    assert objective.wants("dice")
    assert not objective.wants("lovasz")
    assert objective.class_weights == ()


def test_class_weights_by_pixels_and_by_instances() -> None:
    by_pixels = class_weights(tiny_run(loss_options={"class_balance": "inverse_frequency"}), ROWS, ("roof", "door"))
    assert by_pixels == pytest.approx((2 * 20 / 200, 2 * 180 / 200, 0))
    few = tiny_run(loss_options={"class_balance": "effective_number", "class_balance_beta": 0.5})
    raw = np.array([0.5 / (1 - 0.5**2), 0.5 / (1 - 0.5**1)])  # two images, one roof
    assert class_weights(few, ROWS, ("roof", "door")) == pytest.approx((*(raw / raw.mean()), 0))


def test_class_weights_change_what_is_learned() -> None:
    losses = []
    for balance in ("none", "inverse_frequency"):
        reports = Reports()
        run = tiny_run(loss_options={"class_balance": balance})
        fit(run, CLASSES, train=roofs(4), val=roofs(2, seed=1), report=reports)
        losses.append(reports.metrics[0]["train/loss/cross_entropy"])
    assert losses[0] != losses[1]


def values_in(tensor: torch.Tensor) -> list[float]:
    return np.unique(tensor.numpy()).tolist()


def scored() -> Example:
    return replace(example(64), scores=np.array([0.9, 0.5], np.float32))


def test_each_pixel_has_the_score_of_its_instance_and_background_one() -> None:
    one = scored()
    (map_SS,) = score_maps([one], 64)
    assert values_in(map_SS[:48][torch.from_numpy(one.masks_NHW[1] & ~one.masks_NHW[0])]) == [0.5]
    assert values_in(map_SS[:48][torch.from_numpy(one.masks_NHW[0] & ~one.masks_NHW[1])]) == [pytest.approx(0.9)]
    assert (map_SS[48:] == 1).all()


def test_certainty_holds_what_the_options_ask_for() -> None:
    assert certainty([scored()], 64, NoiseSpec()) == {}
    found = certainty([scored()], 64, NoiseSpec(score_power=2.0, soft_targets=True, label_smoothing=0.2))
    assert found.keys() == {"weight", "smoothing"}
    assert values_in(found["weight"]) == pytest.approx([0.25, 0.81, 1])
    assert values_in(found["smoothing"]) == pytest.approx([0.2, 0.5]), "the larger of the two"
    smoothed = certainty([scored()], 64, NoiseSpec(label_smoothing=0.1))["smoothing"]
    assert values_in(smoothed) == pytest.approx([0.1])
    assert instance_weights(scored(), NoiseSpec(score_power=2.0)).tolist() == pytest.approx([0.81, 0.25])
    assert instance_weights(scored(), NoiseSpec()).tolist() == [1, 1]


def banded(source: str) -> Example:
    mask = masks.from_box((10, 10, 30, 30), size_hw=(40, 40))
    sample = Sample("a", "", (40, 40), (Instance("roof", mask, mask.box_xyxy, score=0.9),), source=source)
    content = encoded(np.zeros((40, 40, 3), np.uint8))
    return make_example(sample, content, classes=("roof",), image_size=40, rng=np.random.default_rng(0), ignore_band=2)


def test_both_sides_of_a_teachers_edge_teach_nothing_and_a_humans_do() -> None:
    ignore_HW = banded("policy-1").ignore_HW
    across = np.flatnonzero(ignore_HW[20]).tolist()
    assert across == [8, 9, 10, 11, 28, 29, 30, 31]
    assert not banded("human").ignore_HW.any()


def test_an_uncertain_edge_teaches_nothing_or_on_average_a_soft_label() -> None:
    drawn, inner, outer = (masks.from_box((a, a, 40 - a, 40 - a), size_hw=(40, 40)) for a in (10, 12, 8))
    band = masks.encode(masks.decode(outer) & ~masks.decode(inner))
    said = Evidence(unsure=band)
    instance = Instance("roof", drawn, drawn.box_xyxy, score=0.9, evidence=said)
    sample = Sample("a", "", (40, 40), (instance,), source="policy-1")
    content, rng = encoded(np.zeros((40, 40, 3), np.uint8)), np.random.default_rng(0)

    def seen(*, soft: bool) -> Example:
        return make_example(sample, content, classes=("roof",), image_size=40, rng=rng, soft_band=soft)

    assert (seen(soft=False).ignore_HW == masks.decode(band)).all()
    examples = [seen(soft=True) for _ in range(300)]
    assert not any(e.ignore_HW.any() for e in examples)
    mean_HW = np.mean([e.masks_NHW[0] for e in examples], axis=0)
    assert mean_HW[20, 13:27].tolist() == [1.0] * 14
    assert mean_HW[20, 10] == pytest.approx(2 / 3, abs=0.08)
    assert mean_HW[20, 9] == pytest.approx(1 / 3, abs=0.08)
    assert mean_HW[20, 7] == 0


def test_the_centre_line_of_a_thin_object_still_teaches() -> None:
    crack_HW = np.zeros((40, 60), np.bool_)
    crack_HW[18:21, 5:55] = True
    taught_HW = crack_HW & ~masks.edge_band(crack_HW, 3)
    assert taught_HW[:, 8:52].any(axis=0).all(), "no gap along the crack"
    assert taught_HW.sum() < crack_HW.sum() / 2


@pytest.mark.parametrize("fill", [False, True])
def test_a_mask_without_an_edge_has_no_band(*, fill: bool) -> None:
    assert not masks.edge_band(np.full((9, 9), fill), 2).any()


@pytest.mark.parametrize("noise", [{"score_power": 1.0}, {"soft_targets": True}, {"label_smoothing": 0.2}], ids=str)
def test_unet_learns_from_uncertain_labels_as_the_options_say(noise: dict[str, float]) -> None:
    """Labels of half the confidence: the loss differs from that of sure labels, and only with the option."""
    unsure = [
        (replace(s, source="p", instances=tuple(replace(i, score=0.5) for i in s.instances)), b) for s, b in roofs(4)
    ]
    losses = []
    for settings in ({}, noise):
        reports = Reports()
        fit(tiny_run(noise=settings), CLASSES, train=unsure, val=roofs(2, seed=1), report=reports)
        losses.append(reports.metrics[0]["train/loss"])
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
