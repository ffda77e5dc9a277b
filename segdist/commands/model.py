"""A trained model by its name: in Python, `segdist.load_model`, and for every command that takes one."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from segdist.core import storage as files
from segdist.core.errors import DataError, SpecError
from segdist.core.json_values import JsonObject
from segdist.core.panels import overlay
from segdist.core.plugins import ImageHWC, declaration
from segdist.core.records import MAX_PIXELS, Prediction, Prompt
from segdist.core.renamed_keys import current
from segdist.core.spec import EvaluateSpec
from segdist.datasets.inputs import Input, Reader
from segdist.reading import images
from segdist.serving.answers import checked_prompt
from segdist.sweepfile.loading import problems_of
from segdist.tracking import Tracker

if TYPE_CHECKING:
    from segdist.nets.segmenter import Segmenter

AnyImage: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file (here, at a URI, or `archive.zip!/file`), a picture of Pillow, or RGB pixels, (height, width, 3)."""
AnyPrompt: TypeAlias = Prompt | JsonObject | None
"""What the model is told of one image: a `Prompt`, or its fields as a mapping; None tells nothing."""


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, ready to predict on the GPU, if there is one.

    Attributes:
        name: what it was asked for by.
        family: of the model.
        classes: names, in the order of their numbers.
        prompts: the kinds of prompt that it takes: "none", "box", "point", "text", "exemplar".
        evaluate: how it predicts: tiles, views, scores, what is done to masks.
        network: the `Segmenter`.
        bytes_on_disk: size of its folder.
    """

    name: str
    family: str
    classes: tuple[str, ...]
    prompts: frozenset[str]
    evaluate: EvaluateSpec = field(repr=False)
    network: "Segmenter" = field(repr=False)
    bytes_on_disk: int

    @overload
    def predict(  # type: ignore[overload-overlap]  # a text is one image, though it can be iterated
        self, images: AnyImage, prompts: AnyPrompt = None
    ) -> Prediction: ...

    @overload
    def predict(self, images: Iterable[AnyImage], prompts: Iterable[AnyPrompt] | None = None) -> list[Prediction]: ...

    def predict(self, images: Any, prompts: Any = None) -> Any:
        """What the model finds; of several images one is in memory at a time.

        Args:
            images: one image, or several: a file, a picture of Pillow, or an array of RGB pixels, (height, width, 3),
                0..255. OpenCV gives BGR: turn it by `image[..., ::-1]`.
            prompts: for models that take some, what is shown of the image, or as many as there are images: a `Prompt`,
                or a mapping such as `{"boxes_xyxy": [[x1, y1, x2, y2]]}`, in pixels of the image.

        Returns:
            Of one image its prediction, of several a list. A prediction's `image_id` is the file, or "image" and its
            place among the images, from 0.

        Raises:
            DataError: an image cannot be read or is no image, the model does not take this prompt, or needs one.
        """
        if _is_one(images):
            return self._predicted(images, prompts, 0)
        if prompts is None:
            asked: Iterable[AnyPrompt] = repeat(None)
        elif isinstance(prompts, Prompt | Mapping):
            raise DataError("Of several images each needs a prompt of its own: predict(images, [prompt, ...]).")
        else:
            asked = chain(prompts, repeat(_NOTHING_LEFT))
        return [self._predicted(image, prompt, n) for n, (image, prompt) in enumerate(_paired(images, asked))]

    def _predicted(self, image: AnyImage, prompt: AnyPrompt, number: int) -> Prediction:
        from segdist.engine.predict import find_in
        from segdist.engine.tiles import with_small_batches

        image_id = _name_of(image) or f"image-{number}"
        image_HWC = image_pixels(image, name=image_id)
        asked = asdict(prompt) if isinstance(prompt, Prompt) else prompt or {}
        size_hw = image_HWC.shape[0], image_HWC.shape[1]
        shown = checked_prompt(asked, size_hw=size_hw, classes=self.classes, understood=self.prompts)
        evaluate = with_small_batches(self.evaluate, self.network)
        return find_in(self.network, image_HWC, shown, evaluate, image_id=image_id)


def load_model(
    model: str | os.PathLike[str],
    *,
    changes: Mapping[str, object] | None = None,
    storage: str = "",
    tracking: str = "embedded",
) -> Model:
    """A trained model, ready to predict.

    Args:
        model: `NAME@champion`, `NAME@VERSION`, `SWEEP#TRIAL`, a run id, or a model folder here or at a URI.
        changes: keys of `evaluate` other than those it was trained with, as in a sweep file:
            `{"min_score": 0.5, "tile": {"size": 1024}}`.
        storage: the folder of the sweep that trained it; "" for `SEGDIST_STORAGE`, else `~/segdist`.
        tracking: its MLflow URI, or "embedded".

    Raises:
        BackendError: MLflow knows no such model, or does not answer.
        WeightsError: the folder holds no model, or one that names files outside itself and is not trusted.
        SpecError: a key of `changes` is wrong, or a library that the model needs is missing.
    """
    from segdist.engine import checkpoint, runtime
    from segdist.engine.workers import Workers

    with model_folder(os.fspath(model), storage or files.default_folder(), tracking) as (folder, trusted):
        described = checkpoint.describe(folder)
        evaluate = changed(described.evaluate, changes or {})
        network = checkpoint.load(folder, trusted=trusted, device=Workers.here().device)
        size = runtime.bytes_on_disk(folder)["model/bytes"]
    family = declaration(described.model.family)
    return Model(
        name=os.fspath(model),
        family=described.model.family,
        classes=described.classes,
        prompts=family.prompts(network.options),
        evaluate=evaluate,
        network=network,
        bytes_on_disk=int(size),
    )


def draw(image: AnyImage, prediction: Prediction) -> Image.Image:
    """The image with everything found in it filled, outlined and named; a notebook shows it as it is.

    Args:
        image: the one that was predicted on.
        prediction: of the model.

    Raises:
        DataError: the image cannot be read, or has another size.
    """
    image_HWC = image_pixels(image, name=prediction.image_id)
    size_hw = image_HWC.shape[0], image_HWC.shape[1]
    if size_hw != prediction.size_hw:
        raise DataError(f"The prediction is of an image of (height, width) {prediction.size_hw}, but got {size_hw}.")
    return Image.fromarray(overlay(image_HWC, prediction.instances, prediction.classes))


def image_pixels(image: AnyImage, *, name: str = "image") -> ImageHWC:
    """The RGB pixels of an image, upright.

    Raises:
        DataError: it cannot be read, or an array is none of 8-bit RGB pixels.
    """
    if isinstance(image, Image.Image):
        return images.from_pillow(image, name=name).image_HWC
    if isinstance(image, str | os.PathLike):
        place = files.absolute(os.fspath(image))
        if Path(place).is_dir():
            raise DataError(
                f"{name} is a folder. Name its images: predict(sorted(pathlib.Path(FOLDER).glob('*.jpg'))); or let "
                "`segdist predict MODEL FOLDER OUT` write what it finds in all of them."
            )
        return images.decode(Reader().read(Input(place, name, "")), name=name).image_HWC
    return _checked_array(image, name)


def _checked_array(image: object, name: str) -> ImageHWC:
    rule = "An image must be a path, a picture of Pillow, or an array of shape (height, width, 3) and type uint8, RGB"
    if not isinstance(image, np.ndarray):
        raise DataError(f"{rule}, but {name} is {type(image).__name__}.")
    got = f"but {name} has shape {image.shape} and type {image.dtype}"
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        raise DataError(f"{rule}, {got}. Put the channels last: image.transpose(1, 2, 0).")
    if image.ndim == 2:
        raise DataError(f"{rule}, {got}. Of grey pixels make three channels: numpy.stack([image] * 3, axis=-1).")
    if image.ndim != 3 or image.shape[2] != 3 or not 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS:
        raise DataError(f"{rule}, with 1 to {MAX_PIXELS:,} pixels, {got}.")
    if image.dtype != np.uint8:
        raise DataError(f"{rule}, {got}. Scale it to 0..255, then image.astype(numpy.uint8).")
    return np.ascontiguousarray(image)


_NOTHING_LEFT: Any = object()


def _paired(several: Any, prompts: Iterable[object]) -> Iterator[tuple[Any, Any]]:
    """Each image with its prompt.

    Raises:
        DataError: these are no images, or there are more or fewer prompts.
    """
    if not isinstance(several, Iterable) or isinstance(several, bytes | Mapping):
        _checked_array(several, "image")
    rest = iter(prompts)
    for image in several:
        prompt = next(rest)
        if prompt is _NOTHING_LEFT:
            raise DataError("There must be a prompt for each image, but there are fewer prompts than images.")
        yield image, prompt
    if next(rest, None) not in (None, _NOTHING_LEFT):
        raise DataError("There must be a prompt for each image, but there are more prompts than images.")


def _is_one(images: object) -> bool:
    """Whether it is one image; an array of four axes is several."""
    return isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim != 4)


def _name_of(image: object) -> str:
    """The file that an image is, or was opened from; "" where there is none."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else str(getattr(image, "filename", "") or "")


@contextmanager
def model_folder(model: str, storage: str, tracking: str) -> Iterator[tuple[Path, bool]]:
    """The folder of a model, and whether it is trusted (see `checkpoint.load`); a copy is gone afterwards.

    Args:
        model: `NAME@champion`, `NAME@VERSION`, `SWEEP#TRIAL`, a run id, or a model folder here or at a URI.
        storage: of the sweep that trained it.
        tracking: its MLflow URI, or "embedded".
    """
    if place := place_of(model):
        from segdist.engine import checkpoint

        with checkpoint.fetched(place) as folder:
            yield folder, is_trusted(place, storage)
        return
    with TemporaryDirectory(prefix="segdist-") as scratch:
        tracker = Tracker.at(storage, tracking)
        if "@" in model:
            yield tracker.model_files(model, Path(scratch)), True
        else:
            yield tracker.model(tracker.run_of(model), Path(scratch)), True


def place_of(model: str) -> str:
    """Where the folder lies that a model is named by, as a path or a URI; "" where MLflow knows the name."""
    place = files.absolute(model)
    return place if "://" in place or Path(place).is_dir() else ""


def is_trusted(folder: str, storage: str) -> bool:
    """Whether a model folder lies in the storage folder, where segdist alone writes, or where its user trusts all."""
    from segdist.engine import checkpoint

    trusted = [storage, *os.environ.get(checkpoint.TRUSTED, "").split(",")]
    return any(files.within(folder, root.strip()) for root in trusted if root.strip())


def changed(evaluate: EvaluateSpec, changes: Mapping[str, object]) -> EvaluateSpec:
    """Settings with some of their keys replaced; those of `post` one by one.

    Raises:
        SpecError: a key is unknown or a value wrong.
    """
    content, place = evaluate.model_dump(), EvaluateSpec.place
    try:
        changes = current(changes, under=place)
        post = changes.get("post", {})
        if isinstance(post, Mapping):
            changes = {**changes, "post": {**content["post"], **post}}
        return EvaluateSpec.model_validate({**content, **changes})
    except ValidationError as error:
        problems = problems_of(error, EvaluateSpec, (place,))
        raise SpecError("\n".join(f"{'.'.join(problem.keys)}: {problem.message}" for problem in problems)) from error
    except ValueError as error:  # an old and a new name at once
        raise SpecError(f"{error}.") from error
