"""Several views of one image in a grid, with captions and a legend."""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from segdist.core.panels.drawing import (  # fmt: skip
    INK,
    PAPER,
    DrawnInstance,
    Font,
    ImageHWC,
    Rgb,
    colour,
    draw,
    font_of,
    large_first,
)
from segdist.core.panels.mistakes import EDGES, ERRORS, edge_bleed, errors
from segdist.core.records import HUMAN, Instance, Prediction, Sample

_VIEW = 420  # pixels of the longest side of one view
_GAP = 10
_TEXT = 30  # large, because panels are looked at as thumbnails: MLflow shows them 256 pixels wide
_LINE = 38
_KEY = 24
_FAINT = (95, 99, 104)
Entries = list[tuple[str, Rgb]]


def panel(
    image_HWC: ImageHWC, truth: Sample, prediction: Prediction, *, classes: Sequence[str] = (), bleed: bool = False
) -> ImageHWC:
    """[image | truth | prediction | error] in a grid as square as it can be, with captions and a legend.

    Args:
        image_HWC: RGB at its own size.
        truth: the sample with its true or pseudo-labelled instances.
        prediction: what the model found.
        classes: class names in order; they decide the colours. Empty takes the labels in this picture by name.
        bleed: add a view of where the predicted boundary lies outside the true one, or inside it.
    """
    found = prediction.instances
    small, views, legend = _views(image_HWC, truth, {"prediction": found}, classes)
    views["error"] = errors(small, truth, found)
    legend += _shown(ERRORS, views["error"])
    if bleed:
        views["edge"] = edge_bleed(small, truth, found)
        legend += list(EDGES.items())
    return _compose(views, legend, columns=_columns(len(views), small))


def versus(
    image_HWC: ImageHWC, truth: Sample, found: Mapping[str, Sequence[Instance]], *, classes: Sequence[str] = ()
) -> ImageHWC:
    """[truth | one prediction | its error | the next | its error ...]: the same image by several models.

    Args:
        image_HWC: RGB at its own size.
        truth: the sample.
        found: the predicted instances of each model, by what to call it.
        classes: class names in order; they decide the colours.
    """
    small, views, legend = _views(image_HWC, truth, found, classes)
    shown = {name: view for name, view in views.items() if name not in found and name != "image"}
    for name, instances in found.items():
        shown |= {name: views[name], f"error of {name}": errors(small, truth, instances)}
    legend += [e for e in ERRORS.items() if any(e in _shown(ERRORS, view) for view in shown.values())]
    return _compose(shown, legend, columns=len(shown))


def _views(
    image_HWC: ImageHWC, truth: Sample, found: Mapping[str, Sequence[Instance]], classes: Sequence[str]
) -> tuple[ImageHWC, dict[str, ImageHWC], Entries]:
    """The small image; it, the truth and what was found by caption; and the classes that are in them."""
    parts = {"truth" if truth.source == HUMAN else "pseudo-label": truth.instances, **found}
    present = {i.label for instances in parts.values() for i in instances}
    names = list(classes) or sorted(present)
    small = _fit(image_HWC)
    views = {"image": small}
    for caption, instances in parts.items():
        views[caption] = draw(small, [DrawnInstance.of(i, small.shape[:2], names) for i in large_first(instances)])
    return small, views, [(name, colour(k)) for k, name in enumerate(names) if name in present]


def _shown(shades: Mapping[str, Rgb], view_HWC: ImageHWC) -> Entries:
    """The entries whose colour is in a view."""
    return [(name, shade) for name, shade in shades.items() if (view_HWC == np.array(shade)).all(axis=2).any()]


def _fit(image_HWC: ImageHWC) -> ImageHWC:
    height, width = image_HWC.shape[:2]
    scale = _VIEW / max(height, width)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image_HWC, size, interpolation=way), dtype=np.uint8)


def _columns(count: int, view_HWC: ImageHWC) -> int:
    """In how many columns as many views are largest in a square; of equal ways, that with the fewest empty places."""
    height, width = view_HWC.shape[:2]

    def cost(columns: int) -> tuple[int, int, int]:
        rows = math.ceil(count / columns)
        return max(columns * width, rows * height), rows * columns, abs(columns - rows)

    return min(range(count, 0, -1), key=cost)


def _compose(views: Mapping[str, ImageHWC], legend: Entries, *, columns: int) -> ImageHWC:
    """Views below their captions, and the legend below all of them."""
    height, width = next(iter(views.values())).shape[:2]
    font = font_of(_TEXT)
    across, down = width + _GAP, _LINE + height + _GAP
    total, top = _GAP + columns * across, _GAP + math.ceil(len(views) / columns) * down
    entries, bottom = _legend_places(legend, font, total)
    canvas = Image.new("RGB", (total, top + bottom if entries else top), PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, (caption, view) in enumerate(views.items()):
        x, y = _GAP + number % columns * across, _GAP + number // columns * down
        pen.text((x, y - 4), caption, fill=_FAINT, font=font)
        canvas.paste(Image.fromarray(view), (x, y + _LINE))
    for x, y, name, shade in entries:
        pen.rounded_rectangle((x, top + y + 5, x + _KEY, top + y + 5 + _KEY), radius=5, fill=shade)
        pen.text((x + _KEY + 8, top + y - 2), name, fill=INK, font=font)
    return np.asarray(canvas)


def _legend_places(
    legend: Sequence[tuple[str, Rgb]], font: Font, width: int
) -> tuple[list[tuple[int, int, str, Rgb]], int]:
    """(x, y, name, colour) of every entry, broken into lines, and the height of all lines."""
    x, y, places = _GAP, 0, []
    for name, shade in legend:
        needed = _KEY + 8 + math.ceil(font.getlength(name)) + 24
        if x > _GAP and x + needed > width:
            x, y = _GAP, y + _LINE
        places.append((x, y, name, shade))
        x += needed
    return places, y + _LINE
