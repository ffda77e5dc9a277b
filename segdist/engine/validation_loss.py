"""The loss of a finished model over images that it did not learn from."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from segdist.core.plugins import Example, declaration
from segdist.core.records import LabelledImage
from segdist.nets.collate import on_device
from segdist.nets.segmenter import Segmenter
from segdist.reading.examples import make_example

_SEED = 0


def mean_loss(network: Segmenter, rows: Sequence[LabelledImage], *, family: str, batch_size: int) -> dict[str, float]:
    """`loss`: the family's own terms with its own weights, the mean over images; what is drawn at random is fixed.

    Args:
        network: a `Segmenter`.
        rows: images with their truth.
        family: its name.
        batch_size: images at a time.
    """
    weights = declaration(family).losses
    network.eval()
    device = next(network.parameters()).device
    total = 0.0
    with torch.inference_mode(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_SEED)
        waiting = iter(rows)
        while batch := list(islice(waiting, batch_size)):
            terms = network(on_device(network.collate([_example(network, row) for row in batch]), device))
            total += len(batch) * sum(weights[name] * float(value) for name, value in terms.items())
    return {"loss": total / len(rows)} if len(rows) else {}


def _example(network: Segmenter, row: LabelledImage) -> Example:
    sample, image_bytes = row
    size = network.options.image_size
    rng = np.random.default_rng(_SEED)
    return make_example(sample, image_bytes, classes=network.classes, image_size=size, rng=rng)
