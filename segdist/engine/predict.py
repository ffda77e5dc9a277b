"""Predictions and scores of one model over one split, streaming."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch

from segdist.core.cards import has_card
from segdist.core.causes import is_out_of_memory
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, LabelledImage, Prediction, Prompt, Sample
from segdist.core.spec import EvaluateSpec
from segdist.engine.post import cleaned
from segdist.engine.separate import separated
from segdist.engine.tiles import predict_tiled, tile_size
from segdist.engine.under_way import LeftError
from segdist.engine.views import predict_views
from segdist.engine.workers import Workers
from segdist.metrics import WORST_GROUP, evaluator_of
from segdist.nets.segmenter import Segmenter
from segdist.reading.examples import decode_image

_LOG = logging.getLogger(__name__)


def predict(
    network: Segmenter, rows: Iterable[LabelledImage], evaluate: EvaluateSpec
) -> Iterator[tuple[Sample, ImageHWC, Prediction]]:
    """Each sample with its decoded image and what the model finds in it.

    Where memory does not hold a batch, batches are halved from there on.
    """
    network.eval()
    rows = iter(rows)
    while batch := list(islice(rows, evaluate.batch_size)):
        images = [decode_image(image_bytes) for _, image_bytes in batch]
        prompts = [box_prompt(sample) if evaluate.prompts == "box" else Prompt() for sample, _ in batch]
        start = time.perf_counter()
        found, evaluate = _within_memory(network, images, prompts, evaluate)
        seconds = (time.perf_counter() - start) / len(batch)
        for (sample, _), image, instances in zip(batch, images, found, strict=True):
            yield sample, image, Prediction(sample.image_id, instances, seconds)


def _within_memory(
    network: Segmenter, images: Sequence[ImageHWC], prompts: Sequence[Prompt], evaluate: EvaluateSpec
) -> tuple[list[tuple[Instance, ...]], EvaluateSpec]:
    """What a model finds, and the settings with which memory held it: as many images, or tiles of one, at once."""
    while True:
        at_once = evaluate.batch_size
        parts = [slice(start, start + at_once) for start in range(0, len(images), at_once)]
        try:
            with torch.inference_mode():
                found = [one for of in parts for one in segment(network, images[of], prompts[of], evaluate)]
        except (RuntimeError, MemoryError) as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
        else:
            return found, evaluate
        evaluate = evaluate.model_copy(update={"batch_size": at_once // 2})
        _LOG.warning("memory does not hold `evaluate.batch_size: %d`: from here on it is %d", at_once, at_once // 2)
        if has_card():
            torch.cuda.empty_cache()


def segment(
    network: Segmenter, images: Sequence[ImageHWC], prompts: Sequence[Prompt], evaluate: EvaluateSpec
) -> list[tuple[Instance, ...]]:
    """What a model finds in images, with everything around the network that `evaluate` asks for.

    Args:
        network: a `Segmenter`, ready to predict; call it under `torch.inference_mode`.
        images: RGB, each at its own size.
        prompts: one for each image.
        evaluate: how the model predicts: in which `tile`s and views (`tta`), and what is done `post`.

    Raises:
        SpecError: points are to be shown in tiles, or a library for `post` is missing.
    """
    regions = network.region_classes
    find = predict_views(network.predict, evaluate.tta, region_classes=regions) if evaluate.tta else network.predict
    if evaluate.tile:
        size, overlap = tile_size(evaluate.tile, network), evaluate.tile.overlap
        at_once = evaluate.batch_size
        found = [
            predict_tiled(find, image, prompt, size=size, overlap=overlap, batch_size=at_once, region_classes=regions)
            for image, prompt in zip(images, prompts, strict=True)
        ]
    else:
        found = list(find(images, prompts))
    if evaluate.post.changes_masks:
        found = [
            cleaned(image, instances, evaluate.post, keep_all=bool(prompt.boxes_xyxy))
            for image, instances, prompt in zip(images, found, prompts, strict=True)
        ]
    return [separated(instances, evaluate.post, region_classes=regions) for instances in found]


def find_in(
    network: Segmenter, image_HWC: ImageHWC, prompt: Prompt, evaluate: EvaluateSpec, *, image_id: str
) -> Prediction:
    """What counts as found in one image: by the same rules for files, in Python and in a packed model.

    Args:
        network: a `Segmenter`, ready to predict.
        image_HWC: RGB.
        prompt: what the model is told.
        evaluate: see `segment`.
        image_id: what the prediction is called.

    Raises:
        SpecError: see `segment`.
    """
    start = time.perf_counter()
    with torch.inference_mode():
        instances = segment(network, [image_HWC], [prompt], evaluate)[0]
    seconds = time.perf_counter() - start
    whole = evaluate.tile is None and not evaluate.tta
    return Prediction(
        image_id,
        tuple(i for i in instances if evaluate.accepts(i.label, i.score)),
        seconds,
        text=texts_of(network, 1)[0] if whole else "",
        size_hw=(image_HWC.shape[0], image_HWC.shape[1]),
        classes=tuple(network.classes),
    )


def texts_of(network: Segmenter, count: int) -> list[str]:
    """What a family that writes was asked and wrote about each image, where it saw all of them whole at once."""
    texts = network.texts()
    return texts if len(texts) == count else [""] * count


def box_prompt(sample: Sample) -> Prompt:
    """The true boxes of a sample, crowds left out."""
    objects = [i for i in sample.instances if not i.is_crowd]
    return Prompt(boxes_xyxy=tuple(i.box_xyxy for i in objects), labels=tuple(i.label for i in objects))


def score(
    network: Segmenter,
    rows: Sequence[LabelledImage],
    evaluate: EvaluateSpec,
    *,
    workers: Workers,
    leave: Callable[[], bool] | None = None,
) -> tuple[dict[str, float], list[Prediction]]:
    """The metrics of every epoch over all rows, each worker predicting its share; `WORST_GROUP` where it is defined.

    Args:
        network: a `Segmenter`.
        rows: of all workers.
        evaluate: how it predicts and is scored.
        workers: this process's place among them.
        leave: asked after every image; whether this worker is to leave.

    Returns:
        The values; and of this worker's own predictions the first few, as many as `evaluate.pictures` needs.

    Raises:
        LeftError: a worker is to leave; all raise it.
    """
    mine = (rows[i] for i in range(workers.rank, len(rows), workers.world_size))
    evaluator = evaluator_of(network.classes, evaluate, dict.fromkeys((*evaluate.each_epoch, WORST_GROUP)))
    kept: list[Prediction] = []
    seconds: list[float] = []
    is_to_leave = False
    for sample, _, prediction in predict(network, mine, evaluate):
        evaluator.add(sample, prediction)
        seconds.append(prediction.seconds)
        if len(kept) < evaluate.pictures:
            kept.append(prediction)
        if leave and (is_to_leave := leave()):
            break
    if leave and workers.totals([float(is_to_leave)])[0]:
        raise LeftError
    evaluator.seen = sorted(workers.gather(evaluator.seen), key=lambda image: image.image_id)
    values = evaluator.values()
    if math.isnan(values[WORST_GROUP]):
        del values[WORST_GROUP]
    values |= rates_of(network, workers)
    everyone = workers.gather(seconds)
    values["seconds_per_image"] = sum(everyone) / max(1, len(everyone))
    return values, kept


def rates_of(network: Segmenter, workers: Workers) -> dict[str, float]:
    """Shares that the family counted in its predictions, over all workers; see `Segmenter`."""
    sums = {name: [sum(workers.gather([part])) for part in pair] for name, pair in network.take_rates().items()}
    return {name: part / whole for name, (part, whole) in sums.items() if whole}
