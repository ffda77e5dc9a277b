"""A metric that does not add up over images is one function, and is shown where it says."""

from collections.abc import Sequence

import numpy as np
import pytest

from segdist import metrics
from segdist.core import masks
from segdist.core.records import Instance
from segdist.metrics import counting, gathered
from segdist.metrics.evaluator import shown
from segdist.metrics.pair import Pair
from segdist.metrics.shown import Shown
from tests.metrics.drawn import CLASSES, generated


@pytest.fixture(autouse=True)
def _no_metric_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "_GATHERED", dict(gathered.gathered_metrics()))
    monkeypatch.setattr(counting, "_METRICS", dict(counting.metrics()))


def test_a_median_over_images_is_a_metric_of_classes_and_of_all() -> None:
    def area_error(pair: Pair, label: str) -> int:
        truth, guess = pair.rles(label)
        return abs(truth.area - guess.area)

    @gathered.gathered(area_error, shown=Shown("area error", unit="px", lower_is_better=True, places=("leaderboard",)))
    def median_area_error(images: Sequence[int]) -> float:
        return float(np.median(images)) if images else float("nan")

    samples, predictions = generated(3, crowds=False)
    found = metrics.evaluate(samples, predictions, classes=CLASSES, min_score=0.5, metrics=["median_area_error", "iou"])

    by_id = {p.image_id: p.instances for p in predictions}
    expected = {}
    for label in CLASSES:
        errors = []
        for sample in samples:
            chosen = [i for i in by_id.get(sample.image_id, ()) if i.label == label and i.score >= 0.5]
            true = [i for i in sample.instances if i.label == label]
            areas = [
                int(np.any([masks.decode(i.mask) for i in side if i.mask], axis=0).sum()) for side in (true, chosen)
            ]
            if true or [i for i in by_id.get(sample.image_id, ()) if i.label == label]:
                errors.append(abs(areas[0] - areas[1]))
        expected[label] = float(np.median(errors)) if errors else float("nan")
    np.testing.assert_equal({c: found[f"median_area_error/{c}"] for c in CLASSES}, expected)
    assert len({v for v in expected.values() if not np.isnan(v)}) > 2
    assert found["median_area_error"] == pytest.approx(np.nanmean([*expected.values()]))

    assert "median_area_error" in metrics.names()
    assert metrics.family_of("median_area_error/crack") == "median_area_error"
    assert metrics.lower_is_better("median_area_error/crack")
    assert metrics.shown_in("leaderboard")["median_area_error"].heading == "area error px"


def _union(instances: Sequence[Instance]) -> int:
    return int(np.any([masks.decode(i.mask) for i in instances if i.mask], axis=0).sum())


def test_every_value_of_an_evaluation_says_how_it_is_shown() -> None:
    samples, predictions = generated(0, images=4)
    values = metrics.evaluate(samples, predictions, classes=CLASSES, min_score=0.5)
    unsaid = [name for name in values if not metrics.family_of(name)]
    assert values
    assert not unsaid
    assert metrics.family_of("mask_ap_50/crack") == "mask_ap"
    assert metrics.family_of("never heard of") == ""
    assert not metrics.lower_is_better("never heard of")


def test_tables_show_what_metrics_declare() -> None:
    assert [*metrics.shown_in("card")] == [
        "iou",
        "dice",
        "boundary_iou",
        "boundary_f_2px",
        "hausdorff_95",
        "mask_ap",
        "mask_ap_50",
    ]
    assert metrics.shown_in("card")["hausdorff_95"].text(12.345) == "12.3"
    assert Shown("size", "MB", digits=2, factor=1e-6).text(2_500_000) == "2.50"
    assert Shown("size").text(None) == ""


def test_a_metric_without_a_title_is_shown_by_its_name_and_a_class_of_it_as_the_whole() -> None:
    @gathered.gathered(lambda *_: 1)
    def how_many(images: Sequence[int]) -> float:
        return len(images)

    names = ("how_many", "how_many/crack", "how_many/door/left")
    assert [shown(name) for name in names] == [Shown("how many")] * 3
    assert shown("how") is None
