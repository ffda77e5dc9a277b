"""Images whose pixels are numbers of objects or classes: decoded as they were meant, taken apart, painted."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdist import masks
from segdist.records import MAX_PIXELS, Rle

LabelMap = NDArray[np.int64]
"""(height, width) whole numbers, 0 for background."""


@dataclass(frozen=True)
class Decoded:
    """The numbers of a mask image, and whether its format changes them when it is saved.

    Attributes:
        values_HW: palette indices, grey values of 8 or 16 bits, or colours as 0xRRGGBB.
        is_lossy: the file is a JPEG, whose values are near the ones meant.
        is_colour: the values are colours.
    """

    values_HW: LabelMap
    is_lossy: bool
    is_colour: bool


def decode_values(content: bytes, *, colours: bool = False) -> Decoded:
    """The numbers in an encoded mask image.

    Args:
        content: PNG, TIFF, BMP or anything else that Pillow reads.
        colours: whether a palette image stands for its colours instead of its indices.

    Raises:
        OSError, ValueError, SyntaxError: it is no image, truncated, or too large.
    """
    image: Image.Image = Image.open(io.BytesIO(content))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has more than {MAX_PIXELS:,} pixels")
    is_lossy = image.format in ("JPEG", "MPO")
    if colours or image.mode in ("RGBA", "RGBX", "CMYK", "YCbCr"):
        image = image.convert("RGB")
    elif image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return Decoded(pixels.astype(np.int64), is_lossy, is_colour=False)
    red, green, blue = (pixels[..., c].astype(np.int64) for c in range(3))
    if not colours and np.array_equal(red, green) and np.array_equal(red, blue):
        return Decoded(red, is_lossy, is_colour=False)  # grey, saved as colour
    return Decoded(red << 16 | green << 8 | blue, is_lossy, is_colour=True)


def take_apart(values_HW: LabelMap) -> dict[int, Rle]:
    """The mask of each number but 0, in ascending order, from one pass over the runs of the image."""
    height, width = values_HW.shape
    flat = values_HW.ravel(order="F")
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    ends, numbers = np.r_[starts[1:], flat.size], flat[starts]
    order = np.argsort(numbers, kind="stable")
    found = {}
    for group in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        number = int(numbers[group[0]])
        if number:
            edges = np.stack([starts[group], ends[group]], axis=1).ravel()
            found[number] = masks.from_edges(edges, (height, width))
    return found


def components(rle: Rle) -> list[Rle]:
    """The connected regions of a mask; pixels that touch at a corner are connected."""
    count, numbers_HW = cv2.connectedComponents(masks.decode(rle).astype(np.uint8), connectivity=8)
    return [rle] if count == 2 else list(take_apart(numbers_HW.astype(np.int64)).values())


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
