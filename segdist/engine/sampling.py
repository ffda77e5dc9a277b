"""Which images an epoch shows, in which order: all of them once, or some more often than others."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segdist.core.errors import SpecError, did_you_mean
from segdist.core.records import HUMAN, LabelledImages
from segdist.core.spec import SamplingSpec

Weights = NDArray[np.float64]
"""(N,) how often each image is to be drawn, in any unit."""


def image_weights(sampling: SamplingSpec, rows: LabelledImages, classes: Sequence[str]) -> Weights:
    """The weight of each image: the product of those of its class, its group and its labels.

    Raises:
        SpecError: a class or group has a weight, but no image shows it.
    """
    samples = [rows[index][0] for index in range(len(rows))]
    shown = [frozenset(instance.label for instance in sample.instances) & set(classes) for sample in samples]
    of_class = _class_weights(sampling, shown, classes)
    _check("classes", of_class, there=frozenset().union(*shown))
    _check("groups", sampling.groups, there={sample.group for sample in samples})
    return np.array(
        [
            max((of_class.get(label, 1.0) for label in labels), default=1.0)  # as Gupta et al. 2019 (LVIS) have it
            * sampling.groups.get(sample.group, 1.0)
            * sampling.labels.get("human" if sample.source == HUMAN else "teacher", 1.0)
            for sample, labels in zip(samples, shown, strict=True)
        ]
    )


def epoch_order(count: int, rng: np.random.Generator, weights: Weights | None = None) -> NDArray[np.int64]:
    """(count,) the images of an epoch in their order; the k-th repetition of image i is called i + k * count.

    Without weights each comes once. With weights, an image is expected `count * weight / sum` times, and in each epoch
    comes that often but for less than one: chance decides about the fraction alone (systematic sampling).
    """
    if weights is None:
        return rng.permutation(count)
    shuffled = rng.permutation(count)  # neighbours share the chance that rounds them
    until = np.cumsum(weights[shuffled])
    until *= count / until[-1]
    until[-1] = count  # whatever was lost in the sum
    times = np.diff(np.floor(until + rng.random()), prepend=0).astype(np.int64)
    images = np.repeat(shuffled, times)
    repetition = np.arange(len(images)) - np.repeat(np.cumsum(times) - times, times)
    return rng.permutation(images + repetition * count)


_POWERS = {"equal": 0.0, "inverse_sqrt": -0.5, "inverse": -1.0}


def _class_weights(
    sampling: SamplingSpec, shown: Sequence[frozenset[str]], classes: Sequence[str]
) -> Mapping[str, float]:
    if not isinstance(sampling.classes, str):
        return sampling.classes
    shares = {label: sum(label in labels for labels in shown) / len(shown) for label in classes}
    return {label: share ** _POWERS[sampling.classes] for label, share in shares.items() if share}


def _check(key: str, weights: Mapping[str, float], *, there: Collection[str]) -> None:
    for name in weights:
        if name not in there:
            raise SpecError(
                f"`train.sampling.{key}` names `{name}`, but no image of the training split has it. "
                f"{did_you_mean(name, there)}"
            )
