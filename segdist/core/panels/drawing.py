"""Instances drawn on their image: filled, outlined, named; each class in a colour of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segdist.core import masks
from segdist.core.records import Instance, Rle

ImageHWC = NDArray[np.uint8]
Rgb = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Okabe and Ito's colours (jfly.uni-koeln.de/color), distinct with every common colour blindness, in the order that
# stands out best from photographs; then three of Paul Tol's muted scheme.
_PALETTE: tuple[Rgb, ...] = (
    (230, 159, 0), (86, 180, 233), (213, 94, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (0, 114, 178),
    (136, 34, 85), (153, 153, 51), (136, 204, 238),
)  # fmt: skip
_FILL = 0.45
INK, PAPER = (32, 33, 36), (255, 255, 255)
CROWD: Rgb = (160, 160, 160)


def colour(index: int) -> Rgb:
    """The RGB colour of a class by its index; beyond ten classes hues go round by the golden angle."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    hue = (index * 137.508) % 360
    hsv = np.array([[[hue / 2, 170, 150 + 35 * (index % 3)]]], np.uint8)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
    return int(red), int(green), int(blue)


def overlay(
    image_HWC: ImageHWC, instances: Sequence[Instance], classes: Sequence[str], *, labels: bool = True
) -> ImageHWC:
    """The image with every instance filled, outlined and, where there is room, named.

    Args:
        image_HWC: RGB; the instances' masks have its size.
        instances: what to draw; one without a mask is drawn as a box.
        classes: class names in order; they decide the colours.
        labels: whether to write names, and scores below 1.

    Returns:
        A new image of the same size.
    """
    shapes = [DrawnInstance.of(i, image_HWC.shape[:2], classes) for i in large_first(instances)]
    picture = draw(image_HWC, shapes)
    return _name(picture, shapes) if labels else picture


def encode_jpeg(image_HWC: ImageHWC, *, quality: int = 88) -> bytes:
    """The image as JPEG bytes."""
    return _encode(".jpg", image_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_webp(image_HWC: ImageHWC, *, quality: int) -> bytes:
    """The image as WebP bytes: a third smaller than JPEG; for pages alone, which browsers read."""
    return _encode(".webp", image_HWC, [cv2.IMWRITE_WEBP_QUALITY, quality])


def encode_png(image_HWC: ImageHWC) -> bytes:
    """The image as PNG bytes, without loss."""
    return _encode(".png", image_HWC, [])


@dataclass(frozen=True)
class DrawnInstance:
    """An instance at the size at which it is drawn.

    Attributes:
        text: its name.
        colour: of its class.
        mask_HW: what of its mask lies between the first and last rows and columns that have some of it: of thousands of
            objects in a photograph the whole masks would fill the memory.
        box_xyxy: of the instance.
        at_yx: where the mask's first row and column lie.
    """

    text: str
    colour: Rgb
    mask_HW: masks.Mask | None
    box_xyxy: tuple[int, int, int, int]
    at_yx: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, instance: Instance, size_hw: Sequence[int], classes: Sequence[str]) -> "DrawnInstance":
        """The shape of an instance in a picture of this size."""
        height, width = size_hw[0], size_hw[1]
        mask, scale, at_yx = None, None, (0, 0)
        if instance.mask is not None:
            scale = height / instance.mask.size_hw[0], width / instance.mask.size_hw[1]
            mask, at_yx = _cut_out(instance.mask, (height, width))
        x1, y1, x2, y2 = instance.mask.box_xyxy if instance.mask is not None else instance.box_xyxy
        down, right = scale or (1.0, 1.0)
        box = (math.floor(x1 * right), math.floor(y1 * down), math.ceil(x2 * right), math.ceil(y2 * down))
        known = instance.label in classes and not instance.is_crowd
        shade = colour(list(classes).index(instance.label)) if known else CROWD
        score = f" {instance.score:.2f}" if instance.score < 1 else ""
        return cls(instance.label + score, shade, mask, box, at_yx)


def _cut_out(rle: Rle, size_hw: tuple[int, int]) -> tuple[masks.Mask, tuple[int, int]]:
    """The mask in a picture of this size, cut to what there is of it, and where that begins."""
    if rle.size_hw == size_hw:
        rows, columns = masks.tight_cut(rle)
        return masks.decode_cut(rle, (rows, columns)), (rows.start, columns.start)
    whole_HW = masks.decode_resized(rle, size_hw)
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(whole_HW).view(np.uint8))
    return whole_HW[y : y + height, x : x + width].copy(), (y, x)


def mask_at(instance: Instance, own_hw: tuple[int, int], size_hw: Sequence[int]) -> masks.Mask:
    """The mask, or the filled box where there is none, at another size than the image's own."""
    rle = instance.mask or masks.from_box(instance.box_xyxy, size_hw=own_hw)
    return masks.decode_resized(rle, (size_hw[0], size_hw[1]))


def large_first(instances: Sequence[Instance]) -> list[Instance]:
    """Small ones are drawn last, so that a window stays visible on its wall."""
    return sorted(instances, key=lambda i: -(i.mask.area if i.mask is not None else math.inf))


def draw(image_HWC: ImageHWC, shapes: Sequence[DrawnInstance]) -> ImageHWC:
    """A new image with the shapes filled and outlined, in their order."""
    picture = image_HWC.copy()
    stroke = max(1, round(max(picture.shape[:2]) / 400))
    for shape in shapes:
        if shape.mask_HW is None:
            x1, y1, x2, y2 = shape.box_xyxy
            cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), shape.colour, stroke)
            continue
        # From the image itself, not from what lies below: the colour of a window is the same on every wall.
        if not shape.mask_HW.size:
            continue
        (y, x), (height, width) = shape.at_yx, shape.mask_HW.shape
        below_HWC = image_HWC[y : y + height, x : x + width]
        picture[y : y + height, x : x + width][shape.mask_HW] = (
            below_HWC[shape.mask_HW] * (1 - _FILL) + np.array(shape.colour, np.float32) * _FILL
        ).astype(np.uint8)
        outlined_HW = shape.mask_HW.astype(np.uint8)
        contours, _ = cv2.findContours(outlined_HW, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y))
        cv2.drawContours(picture, contours, -1, shape.colour, stroke, cv2.LINE_AA)
    return picture


def _name(picture_HWC: ImageHWC, shapes: Sequence[DrawnInstance]) -> ImageHWC:
    """Write each name on a chip of its colour, where that covers no other chip."""
    canvas = Image.fromarray(picture_HWC)
    pen = ImageDraw.Draw(canvas)
    font = font_of(max(11, round(max(picture_HWC.shape[:2]) / 48)))
    taken: list[tuple[int, int, int, int]] = []
    for shape in shapes:
        chip = _name_tag_box(pen, shape, font, canvas.size)
        if any(chip[0] < t[2] and t[0] < chip[2] and chip[1] < t[3] and t[1] < chip[3] for t in taken):
            continue
        taken.append(chip)
        pen.rectangle(chip, fill=shape.colour)
        pen.text((chip[0] + 4, chip[1] + 2), shape.text, fill=_ink_on(shape.colour), font=font)
    return np.asarray(canvas)


def _name_tag_box(
    pen: ImageDraw.ImageDraw, shape: DrawnInstance, font: Font, size_wh: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Where a name goes (xyxy): on the object's thickest place if it fits there, otherwise above its box."""
    _, _, text_width, text_height = (math.ceil(v) for v in pen.textbbox((0, 0), shape.text, font=font))
    width, height = text_width + 8, text_height + 5
    thick, centre_x, centre_y = _thickest(shape.mask_HW)
    centre_y, centre_x = centre_y + shape.at_yx[0], centre_x + shape.at_yx[1]
    if thick > width / 2:
        x, y = centre_x - width // 2, centre_y - height // 2
    else:
        x, y = shape.box_xyxy[0], shape.box_xyxy[1] - height - 1
    x, y = max(0, min(x, size_wh[0] - width)), max(0, min(y, size_wh[1] - height))
    return x, y, x + width, y + height


def _thickest(mask_HW: masks.Mask | None) -> tuple[float, int, int]:
    """The largest distance of a pixel to the object's edge, and that pixel's x and y."""
    if mask_HW is None or not mask_HW.size:
        return 0.0, 0, 0
    distance = cv2.distanceTransform(np.pad(mask_HW.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(distance)), distance.shape)
    return float(distance[y, x]), int(x), int(y)


def _ink_on(background: Rgb) -> Rgb:
    red, green, blue = background
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else PAPER


@lru_cache
def font_of(size: int) -> Font:
    """The typeface at a size in pixels."""
    return ImageFont.load_default(size)  # Pillow's own; no font files to look for


def _encode(ending: str, image_HWC: ImageHWC, options: list[int]) -> bytes:
    done, data = cv2.imencode(ending, cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR), options)
    assert done
    return data.tobytes()
