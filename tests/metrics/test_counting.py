"""Functions become counters and metrics, and formulas take sums of any shape."""

import subprocess
import sys

import numpy as np
import pytest

from segdist.metrics import counting
from segdist.metrics.counting import Counter, Metric, Numbers, counter, divide, f_score, mean, metric
from segdist.metrics.pair import Pair
from segdist.metrics.shown import Shown


def test_a_function_of_an_image_and_a_class_becomes_a_counter_and_one_of_its_sums_a_metric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "_METRICS", {})

    def objects(pair: Pair, label: str) -> list[float]:
        return [len(pair.known(label)), 1]

    def share(some: Numbers, images: Numbers) -> Numbers:
        """Objects of an image.

        More words.
        """
        return divide(some, images)

    def left_unsaid(some: Numbers, images: Numbers) -> Numbers:
        return divide(some, images)

    of_class, of_image = counter(2)(objects), counter(2, of_class=False)(objects)
    assert of_class == Counter("objects", 2, objects, of_class=True)
    assert of_image == Counter("objects", 2, objects, of_class=False)

    assert metric(of_class)(share) is share
    said = "Objects of an image."
    assert counting.metrics() == {"share": Metric("share", of_class, share, False, Shown("share"), said)}
    how = Shown("share of objects", unit="%", lower_is_better=True, places=("card",), factor=100)
    metric(of_class, pooled=True, shown=how)(share)
    assert counting.metrics()["share"] == Metric("share", of_class, share, True, how, said)
    metric(of_image)(left_unsaid)
    pooled = Metric("left_unsaid", of_image, left_unsaid, True, Shown("left unsaid"), "")
    assert counting.metrics()["left_unsaid"] == pooled, "it has no class"


def test_the_metrics_are_there_where_python_leaves_docstrings_out() -> None:
    lines = "from segdist.metrics.counting import metrics; import segdist.metrics; print(len(metrics()))"
    seen = subprocess.run([sys.executable, "-OO", "-c", lines], capture_output=True, text=True, check=True)
    assert int(seen.stdout) == len(counting.metrics())


def test_a_metric_is_the_mean_of_its_classes_or_pooled_and_takes_tables_of_images() -> None:
    sums = np.array([[[1, 2], [3, 4], [0, 0]], [[2, 2], [0, 5], [3, 4]]], np.float64)  # images, classes, numbers
    of_class = Metric("a", Counter("c", 2, lambda *_: []), divide, pooled=False, shown=Shown("x"), meaning="")
    pooled = Metric("a", Counter("c", 2, lambda *_: []), divide, pooled=True, shown=Shown("x"), meaning="")
    np.testing.assert_allclose(of_class.per_class(sums), [[0.5, 0.75, np.nan], [1, 0, 0.75]])
    np.testing.assert_allclose(of_class.overall(sums), [0.625, 1.75 / 3])
    np.testing.assert_allclose(pooled.overall(sums), [4 / 6, 5 / 11])
    assert of_class.overall(sums[0]) == 0.625
    assert of_class.overall(sums[:0]).shape == (0,)


def test_a_ratio_a_mean_and_an_f_score_are_defined_where_there_is_something() -> None:
    np.testing.assert_array_equal(divide(np.array([1, 0, 0]), np.array([4, 4, 0])), [0.25, 0, np.nan])
    np.testing.assert_array_equal(mean(np.array([[1, np.nan, 0.5], [np.nan] * 3])), [0.75, np.nan])
    right, found, met, true = np.array([[1, 2, 1, 4], [0, 3, 0, 2], [0, 3, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]]).T
    expected = [2 * 0.5 * 0.25 / 0.75, 0, 0, 0, np.nan]
    np.testing.assert_allclose(f_score(right, found, met, true), expected)
