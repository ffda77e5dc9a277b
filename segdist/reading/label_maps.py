"""Images whose pixels are numbers of objects or classes: decoded as they were meant, taken apart, painted."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdist.core import masks
from segdist.core.records import Rle
from segdist.reading.images import in_strips, opened, picture_in_alpha, turn_upright

LabelMap = NDArray[np.integer]
"""(height, width) whole numbers, 0 for background."""
_ONE_NUMBER = ("1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of one channel."""
_MOST_RUNS, _MOST_NUMBERS = 16_000_000, 100_000
"""Of equal numbers down the columns of a mask image, and different numbers in it: large noise takes gigabytes."""


@dataclass(frozen=True)
class DecodedLabelMap:
    """The numbers of a mask image, and whether its format changes them when it is saved.

    Attributes:
        values_HW: palette indices, whole grey values, or colours as 0xRRGGBB.
        is_lossy: the file is a JPEG, whose values are near the ones meant.
        is_colour: the values are colours.
        note: how the numbers were understood where that is not plain; "" where it is.
    """

    values_HW: LabelMap
    is_lossy: bool
    is_colour: bool
    note: str = ""


def decode_values(content: bytes, *, colours: bool = False, name: str = "it") -> DecodedLabelMap:
    """The numbers in an encoded mask image, as the file stores them: nothing is scaled. It is upright, as photos are.

    A palette image stands for its indices, unless its palette is grey and index 0 is brighter than another: what looks
    black is background then. An image of one colour with an alpha channel that varies stands for that channel.

    Args:
        content: in any format that `reading.images` reads.
        colours: whether a palette image stands for its colours instead of its indices.
        name: what the error message calls it.

    Raises:
        DataError: it is no image, is truncated or too large, or holds numbers that are not whole.
    """
    with opened(content, name=name) as image:
        upright = turn_upright(image, content)
        is_lossy = image.format in ("JPEG", "MPO")
        image.load()
        alpha, note = picture_in_alpha(image), ""
        if alpha is not None:
            image, note = alpha, "all its colours are the same; its alpha channel was read as the mask"
        elif image.mode == "P" and not colours and _is_light_palette(image):
            image, note = image.convert("L"), "index 0 of its palette is not its darkest grey; its greys were read"
        elif image.mode in ("LA", "PA") and not colours:
            image = image.getchannel(0)
        is_colour = colours or not (image.mode in _ONE_NUMBER or _is_grey(image))
        values_HW = _values(image, is_colour=is_colour)
        _check_regions(values_HW)
        return DecodedLabelMap(upright(values_HW), is_lossy, is_colour, note)


def rles_by_value(values_HW: LabelMap) -> dict[int, Rle]:
    """The mask of each number but 0, in ascending order, from one pass over the runs of the image."""
    height, width = values_HW.shape
    flat = values_HW.ravel(order="F")
    starts = np.r_[0, np.flatnonzero(flat[1:] != flat[:-1]) + 1]
    ends, numbers = np.r_[starts[1:], flat.size], flat[starts]
    order = np.argsort(numbers, kind="stable")
    found = {}
    for group in np.split(order, np.flatnonzero(numbers[order][1:] != numbers[order][:-1]) + 1):
        number = int(numbers[group[0]])
        if number:
            edges = np.stack([starts[group], ends[group]], axis=1).ravel()
            found[number] = masks.from_edges(edges, (height, width))
    return found


def components(rle: Rle) -> list[Rle]:
    """The connected regions of a mask; pixels that touch at a corner are connected."""
    count, numbers_HW = cv2.connectedComponents(masks.decode(rle).astype(np.uint8), connectivity=8)
    return [rle] if count == 2 else list(rles_by_value(numbers_HW.astype(np.int64)).values())


def paint(values_HW: NDArray[np.uint16], rle: Rle, number: int, *, only_if_free: bool = False) -> int:
    """Set the pixels of a mask to a number, in place; gives how many of them had one already.

    Args:
        values_HW: the label map.
        rle: where.
        number: what.
        only_if_free: paint nothing where any of the pixels has a number.
    """
    cut = masks.tight_cut(rle)
    mask_HW = masks.decode_cut(rle, cut)
    region_HW = values_HW[cut]
    taken = int(np.count_nonzero(region_HW[mask_HW]))
    if not (taken and only_if_free):
        region_HW[mask_HW] = number
    return taken


def encode_png(values_HW: NDArray[np.uint16]) -> bytes:
    """A label map as PNG: 8 bits where its numbers fit, 16 otherwise."""
    fits = int(values_HW.max(initial=0)) < 256
    ok, png = cv2.imencode(".png", values_HW.astype(np.uint8) if fits else values_HW)
    assert ok
    return png.tobytes()


def _is_light_palette(image: Image.Image) -> bool:
    """Whether the colours in use are greys, and that of index 0 is brighter than another: black is background."""
    palette = image.getpalette("RGB") or []
    used = [index for index in np.flatnonzero(image.histogram()).tolist() if index] or range(1, len(palette) // 3)
    first, *others = (palette[3 * index : 3 * index + 3] for index in (0, *used))
    is_grey = all(len(set(colour)) == 1 for colour in (first, *others))
    return bool(others) and is_grey and first > min(others)


def _is_grey(image: Image.Image) -> bool:
    """Whether an image that is saved in colours has none."""
    strips = (np.asarray(strip.convert("RGB")) for _, strip in in_strips(image))
    return all((s[..., 0] == s[..., 1]).all() and (s[..., 0] == s[..., 2]).all() for s in strips)


def _values(image: Image.Image, *, is_colour: bool) -> LabelMap:
    """Whole numbers, strip by strip: numbers of an image of one channel, colours, or the first channel of greys."""
    found: LabelMap | None = None
    for top, strip in in_strips(image):
        if image.mode in _ONE_NUMBER and not is_colour:
            values_HW = np.asarray(strip)
            if image.mode == "F":
                values_HW = _whole(values_HW)
        else:
            red, green, blue = np.moveaxis(np.asarray(strip.convert("RGB")), 2, 0)
            values_HW = red.astype(np.int32) << 16 | green.astype(np.int32) << 8 | blue if is_colour else red
        if found is None:
            found = np.empty((image.height, image.width), np.uint8 if image.mode == "1" else values_HW.dtype)
        found[top : top + len(values_HW)] = values_HW
    assert found is not None
    return found


def _whole(values_HW: NDArray[np.float32]) -> NDArray[np.int32]:
    if not np.isfinite(values_HW).all() or (values_HW != np.rint(values_HW)).any() or np.abs(values_HW).max() >= 2**31:
        raise ValueError("its numbers are not whole; export the mask with whole numbers")
    return values_HW.astype(np.int32)


def _check_regions(values_HW: LabelMap) -> None:
    """Raises ValueError for noise: every region of a mask costs memory."""
    is_new = values_HW[1:] != values_HW[:-1]
    if np.count_nonzero(is_new) > _MOST_RUNS:
        raise ValueError(f"it must have regions, but its number changes over {_MOST_RUNS:,} times")
    if values_HW.dtype.itemsize > 2 and len(np.unique(np.r_[values_HW[0], values_HW[1:][is_new]])) > _MOST_NUMBERS:
        raise ValueError(f"it must have regions, but holds over {_MOST_NUMBERS:,} different numbers")
