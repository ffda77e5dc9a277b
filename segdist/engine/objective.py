"""What a run minimises: loss weights and parameters from the spec, class weights from the data."""

import numpy as np
from numpy.typing import NDArray

from segdist import losses
from segdist.core import masks
from segdist.core.plugins import Family, Objective
from segdist.core.records import LabelledImages, Sample
from segdist.core.spec import RunSpec

_IMAGES_COUNTED = 1024
"""Images of the training split, evenly spaced, in which classes are counted: more say nothing new."""
Counts = NDArray[np.int64]


def objective_of(run: RunSpec, family: Family, rows: LabelledImages, classes: tuple[str, ...]) -> Objective:
    """The objective of a run on its training split; the same on every worker."""
    train = run.train
    weights = {term: train.loss.get(term, default) for term, default in family.losses.items()}
    return Objective(weights, train.loss_options, train.noise, class_weights(run, rows, classes))


def class_weights(run: RunSpec, rows: LabelledImages, classes: tuple[str, ...]) -> tuple[float, ...]:
    """Weights of background and each class, with mean 1; empty where the run weighs them equally."""
    options = run.train.loss_options
    if options.class_balance == "none" or not len(rows):
        return ()
    step = max(1, -(-len(rows) // _IMAGES_COUNTED))
    samples = [rows[i][0] for i in range(0, len(rows), step)]
    if options.class_balance == "inverse_frequency":
        return tuple(losses.inverse_frequency(sum(_pixels(s, classes) for s in samples)).tolist())  # type: ignore[arg-type]
    counts = sum(_instances(s, classes) for s in samples)
    return tuple(losses.effective_number(counts, beta=options.class_balance_beta).tolist())  # type: ignore[arg-type]


def _pixels(sample: Sample, classes: tuple[str, ...]) -> Counts:
    """(K,) pixels of the background and of each class, at the image's own size."""
    known = [i for i in sample.instances if i.mask is not None and not i.is_crowd]
    unions = [masks.union([i.mask for i in known if i.mask and i.label == c], size_hw=sample.size_hw) for c in classes]
    background = sample.size_hw[0] * sample.size_hw[1] - masks.union(unions, size_hw=sample.size_hw).area
    return np.array([background, *(u.area for u in unions)], np.int64)


def _instances(sample: Sample, classes: tuple[str, ...]) -> Counts:
    """(K,) one for the background, and the instances of each class."""
    known = [i.label for i in sample.instances if i.mask is not None and not i.is_crowd]
    return np.array([1, *(known.count(c) for c in classes)], np.int64)
