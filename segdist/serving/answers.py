"""Prompts in and instances out as JSON: what a served and a packed model have in common."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, TypeVar

from pydantic import FailFast, Field, ValidationError

from segdist.core.errors import DataError
from segdist.core.records import Instance, Prompt
from segdist.core.spec import Strict

MOST_PROMPTS = 1000
"""Objects that one image may be asked for."""
MOST_POINTS = 100
"""Points that show one object."""
MOST_CHARACTERS = 500_000
"""Of a prompt: a thousand boxes written with all digits are a fifth of it."""

_T = TypeVar("_T")
Objects = Annotated[tuple[_T, ...], Field(max_length=MOST_PROMPTS), FailFast()]
"""One of each for every object; the first that is wrong ends it, or each of a hundred thousand would have its error."""
BoundedPoints = Annotated[tuple[_T, ...], Field(max_length=MOST_POINTS), FailFast()]


class PromptRequest(Strict):
    """What a user may tell a model about an image, in pixels of the image."""

    boxes_xyxy: Objects[tuple[float, float, float, float]] = ()
    """A box (x1, y1, x2, y2) for each object."""
    points_xy: Objects[BoundedPoints[tuple[float, float]]] = ()
    """For each object, the points (x, y) that show it."""
    point_is_object: Objects[BoundedPoints[bool]] = ()
    """For each point, true where it lies on the object; left out: all do."""
    labels: Objects[str] = ()
    """The class of each object; left out: the model's first."""
    text: str = Field(default="", max_length=1000)
    """What to look for."""

    @property
    def kinds(self) -> frozenset[str]:
        """Which kinds of prompt it holds."""
        held = {"box": self.boxes_xyxy, "point": self.points_xy, "text": self.text}
        return frozenset(kind for kind, value in held.items() if value)


def read_prompt(text: str, *, size_hw: tuple[int, int], classes: Sequence[str], understood: frozenset[str]) -> Prompt:
    """A prompt written as JSON, checked against the image and the model.

    Args:
        text: JSON of a `PromptRequest`; "" tells nothing.
        size_hw: of the image.
        classes: of the model.
        understood: the kinds of prompt that the model takes, as `Family.prompts` says.

    Raises:
        DataError: it is no such JSON, or the image or the model cannot be asked that.
    """
    if len(text) > MOST_CHARACTERS:
        raise DataError(f"A prompt may have {MOST_CHARACTERS:,} characters at most, but this one has {len(text):,}.")
    with _named():
        asked = PromptRequest.model_validate_json(text or "{}")
    return _fitting(asked, size_hw, classes, understood)


def checked_prompt(
    content: Mapping[str, object], *, size_hw: tuple[int, int], classes: Sequence[str], understood: frozenset[str]
) -> Prompt:
    """A prompt given as the fields of a `PromptRequest`, checked in the same way; arrays are taken for lists.

    Raises:
        DataError: a field is unknown or wrong, or the image or the model cannot be asked that.
    """
    with _named():
        asked = PromptRequest.model_validate(
            {key: value.tolist() if hasattr(value, "tolist") else value for key, value in content.items()}
        )
    return _fitting(asked, size_hw, classes, understood)


@contextmanager
def _named() -> Iterator[None]:
    """Says in our words what is wrong with a prompt."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "prompt"
        raise DataError(
            f'A prompt must be JSON like {{"boxes_xyxy": [[x1, y1, x2, y2]]}}, but at {place}: {first["msg"]}.'
        ) from error


def _fitting(
    asked: PromptRequest, size_hw: tuple[int, int], classes: Sequence[str], understood: frozenset[str]
) -> Prompt:
    if unknown := sorted(asked.kinds - understood):
        takes = ", ".join(sorted(understood - {"none"})) or "none"
        raise DataError(f"This model takes prompts of these kinds: {takes}; but got {', '.join(unknown)}.")
    if "none" not in understood and not asked.kinds:
        raise DataError(f"This model segments what it is shown. Send a prompt: {', '.join(sorted(understood))}.")
    _check(asked, size_hw, classes)
    objects = len(asked.boxes_xyxy) or len(asked.points_xy)
    kinds = asked.point_is_object or tuple(tuple(True for _ in points) for points in asked.points_xy)
    return Prompt(asked.boxes_xyxy, asked.labels or (classes[0],) * objects, asked.points_xy, kinds, asked.text)


def instances_json(instances: Sequence[Instance], classes: Sequence[str]) -> list[dict[str, object]]:
    """COCO annotations of one image, each with its `label` and `score` beside COCO's keys."""
    ids = {name: number for number, name in enumerate(classes, 1)}
    return [
        {
            **i.to_coco(number=n, image_id=1, category_id=ids[i.label]),
            "label": i.label,
            "score": round(i.score, 5),
        }
        for n, i in enumerate(instances, 1)
    ]


def _check(asked: PromptRequest, size_hw: tuple[int, int], classes: Sequence[str]) -> None:
    height, width = size_hw
    for x1, y1, x2, y2 in asked.boxes_xyxy:
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise DataError(
                f"`0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}` must hold, but got {(x1, y1, x2, y2)}."
            )
    for x, y in (point for points in asked.points_xy for point in points):
        if not (0 <= x < width and 0 <= y < height):
            raise DataError(f"A point must lie in the image of {width} x {height} pixels, but got {(x, y)}.")
    if any(not points for points in asked.points_xy):
        raise DataError("Each object in `points_xy` needs at least one point.")
    counts = {len(v) for v in (asked.boxes_xyxy, asked.points_xy, asked.labels) if v}
    if len(counts) > 1:
        raise DataError("`boxes_xyxy`, `points_xy` and `labels` must name the same objects, but differ in length.")
    if asked.labels and not (asked.boxes_xyxy or asked.points_xy):
        raise DataError("`labels` go with boxes or points.")
    if asked.point_is_object and [len(p) for p in asked.point_is_object] != [len(p) for p in asked.points_xy]:
        raise DataError("`point_is_object` must hold one value for each point of `points_xy`.")
    if unknown := set(asked.labels) - set(classes):
        raise DataError(f"`labels` must be classes of the model ({', '.join(classes)}), but got {min(unknown)}.")
