"""A trained model over parts of many images: what every worker of `pipeline.predict` does."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from segdist.commands.model import changed
from segdist.core import storage
from segdist.core.errors import DataError, StorageError
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prediction, Prompt, Sample
from segdist.core.spec import EvaluateSpec
from segdist.datasets.inputs import Input, Reader
from segdist.pipeline.dataflow import answers
from segdist.reading.examples import decode_image

if TYPE_CHECKING:
    from segdist.nets.segmenter import Segmenter


@dataclass(frozen=True)
class How:
    """What decides what comes out, beside model and images.

    Attributes:
        outputs: see `engine.outputs`.
        changes: keys of `evaluate` other than those the model was trained with: `tile`, `min_score`, ...
        boxes: a COCO file with the boxes to segment, for models prompted with boxes; "" for none.
        truth: annotations of the images in any format, to show in panels beside what was found; "" for none.
    """

    outputs: tuple[str, ...] = ("overlays",)
    changes: Mapping[str, object] = field(default_factory=dict)
    boxes: str = ""
    truth: str = ""


@dataclass(frozen=True)
class PackedModel:
    """The files of a model's folder, to travel to workers, and whether they may name places outside it."""

    files: Mapping[str, bytes]
    trusted: bool

    def load(self) -> tuple["Segmenter", EvaluateSpec]:
        """The network on this worker's device, and how it predicts."""
        from segdist.engine import checkpoint
        from segdist.engine.workers import Workers

        with TemporaryDirectory(prefix="segdist-") as scratch:
            folder = Path(scratch)
            for name, content in self.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            network = checkpoint.load(folder, trusted=self.trusted, device=Workers.here().device)
            return network, checkpoint.describe(folder).evaluate


def packed(folder: Path, *, trusted: bool) -> PackedModel:
    """A model folder without what does not belong to the model.

    Raises:
        WeightsError: it is not trusted, and names something outside itself.
    """
    from segdist.engine import checkpoint

    if not trusted:
        checkpoint.check_closed(folder)
    return PackedModel({name: file.read_bytes() for name, file in checkpoint.files(folder).items()}, trusted)


@dataclass(frozen=True)
class PredictJob:
    """What travels to every worker."""

    model: PackedModel
    out: str
    how: How


class Predictor:
    """One model, loaded when it is first needed, over part after part."""

    def __init__(self, job: PredictJob) -> None:
        self._job, self._reader = job, Reader()
        self._network: Segmenter | None = None
        self._evaluate = EvaluateSpec()

    @answers
    def __call__(self, part: dict[str, object]) -> str:
        """The same as `work`, as an actor of Ray Data."""
        return self.work(part)

    def work(self, part: Mapping[str, Any]) -> str:
        """Predict the images of a part and write their outputs; the part itself last, so that it is there whole."""
        network = self._loaded()
        done = [self._one(network, image) for image in json.loads(part["images"])]
        storage.write_atomic(part["target"], json.dumps(done).encode())
        return str(part["target"])

    def _one(self, network: "Segmenter", image: Mapping[str, Any]) -> dict[str, object]:
        """The COCO image with its annotations, or why it could not be read."""
        from segdist.engine.outputs import PredictedImage, check_outputs, write

        one = Input(*(image[key] for key in ("uri", "name", "stamp", "column")))
        try:
            content = self._reader.read(one)
            pixels_HWC = decode_image(content, name=one.uri)
            sample = Sample(one.name, one.uri, (pixels_HWC.shape[0], pixels_HWC.shape[1]))
            truth = _truth_of(sample, image["truth"])
        except (DataError, StorageError) as error:
            return {"error": str(error), "file_name": one.uri}
        prediction = self._predicted(network, sample, pixels_HWC, image["boxes"] or ())
        file = self._reader.file(one)
        found = PredictedImage(image["number"], sample, pixels_HWC, prediction, network.classes, file, content, truth)
        write(self._job.out, check_outputs(self._job.how.outputs), found)
        coco = replace(prediction, image_id=sample.image_uri).to_coco()
        return {"image": coco["images"][0], "annotations": coco["annotations"]}  # numbers come when all parts are there

    def _predicted(
        self, network: "Segmenter", sample: Sample, pixels_HWC: ImageHWC, boxes: Sequence[tuple[str, Sequence[float]]]
    ) -> Prediction:
        """What the network finds in an image, or in the boxes that are shown to it."""
        from segdist.engine.predict import box_prompt, find_in

        shown = tuple(Instance(label, None, tuple(box)) for label, box in boxes)  # type: ignore[arg-type]
        prompt = box_prompt(replace(sample, instances=shown)) if self._evaluate.prompts == "box" else Prompt()
        return find_in(network, pixels_HWC, prompt, self._evaluate, image_id=sample.image_id)

    def _loaded(self) -> "Segmenter":
        if self._network is None:
            from segdist.engine.allocation import keep_freed_memory
            from segdist.engine.tiles import with_small_batches

            keep_freed_memory()
            self._network, own = self._job.model.load()
            self._evaluate = with_small_batches(changed(own, self._job.how.changes), self._network)
        return self._network


def _truth_of(sample: Sample, truth: object) -> Sample | None:
    """What is known of an image; None where nothing is.

    Raises:
        DataError: it belongs to an image of another size.
    """
    if truth is None:
        return None
    known = msgspec.convert(truth, Sample)
    if known.size_hw != sample.size_hw:
        raise DataError(f"`--truth` has it as (height, width) {known.size_hw}, but it is {sample.size_hw}")
    return known
