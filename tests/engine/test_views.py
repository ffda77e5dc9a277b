"""Views are undone exactly, and vote."""

from collections.abc import Sequence

import numpy as np
import pytest

from segdist.core import masks
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.core.spec import TtaView
from segdist.engine.views import PredictImages, predict_views
from tests.engine.test_tiles import drawn, filled, objects, regions


def red_regions(images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
    return [tuple(i for i in found if i.label == "red") for found in regions(images, prompts)]


VIEWS: tuple[TtaView, ...] = ("flip", "flip_vertical", "rotate_180", "darker", "brighter")


@pytest.mark.parametrize("view", ["flip", "flip_vertical", "rotate_180"])
def test_a_network_that_does_not_mind_mirrors_gives_the_same_with_them(view: TtaView) -> None:
    images = [drawn(60, 90), drawn(50, 40, seed=1)]
    prompts = [Prompt()] * 2
    for network, classes in ((objects, ()), (red_regions, ("red",))):
        plain, voted = network(images, prompts), predict_views(network, [view], region_classes=classes)(images, prompts)
        for one, other in zip(plain, voted, strict=True):
            assert {(i.label, i.mask) for i in one} == {(i.label, i.mask) for i in other}
            assert all(i.score == pytest.approx(0.75) for i in other)


def seeing(*answers: Sequence[Instance]) -> PredictImages:
    """A network that answers each view with the next of these."""
    left = iter(answers)
    return lambda images, prompts: [tuple(next(left)) for _ in images]


def instance(label: str, box: tuple[int, int, int, int], score: float) -> Instance:
    rle = masks.from_box(box, size_hw=(20, 20))
    return Instance(label, rle, rle.box_xyxy, score)


BLANK: list[ImageHWC] = [np.zeros((20, 20, 3), np.uint8)]


def test_a_pixel_belongs_to_an_object_if_views_with_half_of_the_scores_say_so() -> None:
    network = seeing(
        [instance("a", (0, 0, 10, 10), 0.9)], [instance("a", (0, 0, 10, 8), 0.5)], [instance("a", (0, 0, 10, 12), 0.3)]
    )
    ((found,),) = predict_views(network, ["darker", "brighter"])(BLANK, [Prompt()])
    assert found.mask == masks.from_box((0, 0, 10, 10), size_hw=(20, 20))
    assert found.score == pytest.approx((0.9 + 0.5 + 0.3) / 3)


def test_an_object_that_one_view_alone_sees_has_a_lower_score_and_others_stay_apart() -> None:
    network = seeing(
        [instance("a", (0, 0, 5, 5), 0.8), instance("a", (10, 10, 15, 15), 0.6)],
        [instance("a", (10, 10, 15, 15), 0.8), instance("b", (0, 0, 5, 5), 0.4)],
    )
    (found,) = predict_views(network, ["brighter"])(BLANK, [Prompt()])
    assert [(i.label, i.box_xyxy, round(i.score, 6)) for i in found] == [
        ("a", (10, 10, 15, 15), 0.7),
        ("a", (0, 0, 5, 5), 0.4),
        ("b", (0, 0, 5, 5), 0.2),
    ]


def test_regions_of_several_classes_do_not_overlap() -> None:
    network = seeing(
        [instance("a", (0, 0, 10, 20), 0.6), instance("b", (10, 0, 20, 20), 0.6)],
        [instance("a", (0, 0, 12, 20), 0.9), instance("b", (12, 0, 20, 20), 0.6)],
    )
    (found,) = predict_views(network, ["brighter"], region_classes=("a", "b"))(BLANK, [Prompt()])
    assert {i.label: i.box_xyxy for i in found} == {"a": (0, 0, 12, 20), "b": (12, 0, 20, 20)}


@pytest.mark.parametrize("view", VIEWS)
def test_boxes_are_shown_where_they_are_in_each_view_and_answered_in_order(view: TtaView) -> None:
    boxes = ((3.0, 1.0, 9.0, 4.0), (0.0, 10.0, 20.0, 12.0))
    prompt = Prompt(boxes_xyxy=boxes, labels=("a", "b"))
    (found,) = predict_views(filled, [view])(BLANK, [prompt])
    assert [i.mask for i in found] == [masks.from_box(box, size_hw=(20, 20)) for box in boxes]


def test_points_move_with_the_mirror() -> None:
    seen: list[Prompt] = []

    def network(images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        seen.extend(prompts)
        return [(instance("a", (0, 0, 5, 5), 0.5),)]

    prompt = Prompt(points_xy=(((2.0, 5.0), (4.0, 6.0)),), point_is_object=((True, False),))
    predict_views(network, ["rotate_180"])(BLANK, [prompt])
    assert [p.points_xy for p in seen] == [(((2, 5), (4, 6)),), (((18, 15), (16, 14)),)]
    assert seen[1].point_is_object == ((True, False),)


def test_brightness_views_change_brightness_alone() -> None:
    shown: list[ImageHWC] = []

    def network(images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        shown.extend(images)
        return [()]

    image = np.random.default_rng(0).integers(1, 255, (8, 8, 3)).astype(np.uint8)
    predict_views(network, ["darker", "brighter"])([image], [Prompt()])
    assert np.array_equal(shown[0], image)
    assert (shown[1] <= image).all()
    assert shown[1].mean() < image.mean() < shown[2].mean()
