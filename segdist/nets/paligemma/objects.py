"""Between instances of an image and objects of an answer: the one place where masks become tokens and back."""

from collections.abc import Sequence

import numpy as np

from segdist.core import masks
from segdist.core.records import Instance, Rle
from segdist.nets.paligemma.answers import TokenObject
from segdist.nets.paligemma.codec import MaskCodec
from segdist.nets.paligemma.crops import crop, paste
from segdist.nets.paligemma.locations import SCALE, Edges, Scale, encode_box, pixel_box, widened


def to_objects(
    instances: Sequence[Instance], *, size_hw: tuple[int, int], codec: MaskCodec | None, scale: Scale = SCALE
) -> list[TokenObject]:
    """Instances as objects, in their order; a mask is cropped to its own tight box, which is also what is written.

    Boxes smaller than a bin are widened to one. Instances without a pixel must be left out before.

    Args:
        instances: of one image.
        size_hw: height and width of the image in pixels.
        codec: what encodes masks; None writes boxes only.
        scale: the convention of locations.
    """
    shown = {n: i.mask for n, i in enumerate(instances) if codec is not None and i.mask is not None}
    found = encode_masks(list(shown.values()), codec) if codec is not None else []
    codes = dict(zip(shown, found, strict=True))
    return [
        TokenObject(i.label, widened(encode_box(box_of(i), size_hw=size_hw, scale=scale)), codes.get(n))
        for n, i in enumerate(instances)
    ]


def encode_masks(shapes: Sequence[Rle], codec: MaskCodec) -> list[tuple[int, ...]]:
    """The sixteen codes of each mask, cropped to its own tight box; no mask may be empty."""
    return codec.encode(np.stack([crop(mask) for mask in shapes])) if shapes else []


def box_of(instance: Instance) -> tuple[float, float, float, float]:
    """The box that is written: of the mask where there is one, else as annotated."""
    return instance.mask.box_xyxy if instance.mask is not None else instance.box_xyxy


def to_instances(
    objects: Sequence[TokenObject],
    *,
    size_hw: tuple[int, int],
    codec: MaskCodec | None,
    scale: Scale = SCALE,
    edges: Edges = "round",
    scores: Sequence[float] | None = None,
    frame_hw: tuple[int, int] | None = None,
) -> list[Instance | None]:
    """Objects as instances, in their order; None where a box or its mask has no pixel in this image.

    Args:
        objects: of one answer.
        size_hw: height and width of the image in pixels.
        codec: what decodes masks; None leaves them out.
        scale: the convention of locations.
        edges: how boxes become whole pixels.
        scores: of each object; 1 by default.
        frame_hw: what locations are shares of, where that is more than the image: with the padding right and below.
    """
    shown = [n for n, o in enumerate(objects) if codec is not None and o.codes is not None]
    codes = [objects[n].codes or () for n in shown]
    logits = dict(zip(shown, codec.decode(codes), strict=True)) if codec is not None else {}
    instances: list[Instance | None] = []
    for n, one in enumerate(objects):
        whole = pixel_box(one.bins, size_hw=frame_hw or size_hw, scale=scale, edges=edges)
        box = _clipped(whole, size_hw)
        score = 1.0 if scores is None else scores[n]
        mask = masks.encode(paste(logits[n], whole, size_hw=size_hw)) if n in logits else None
        if box[0] >= box[2] or box[1] >= box[3] or (mask is not None and not mask.area):
            instances.append(None)
        else:
            around = mask.box_xyxy if mask is not None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
            instances.append(Instance(one.label, mask, around, score))
    return instances


def _clipped(box_xyxy: tuple[int, int, int, int], size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of a box inside an image."""
    x1, y1, x2, y2 = box_xyxy
    return min(x1, size_hw[1]), min(y1, size_hw[0]), min(x2, size_hw[1]), min(y2, size_hw[0])
