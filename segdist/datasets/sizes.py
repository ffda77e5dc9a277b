"""How large an instance is: pixels of its mask, or else of its box; small, medium and large as in COCO."""

from segdist.core.records import Instance

SIZES = ("small", "medium", "large")
_SMALL, _MEDIUM = 32**2, 96**2


def area_of(instance: Instance) -> float:
    """Pixels of the mask, or of the box."""
    if instance.mask is not None:
        return float(instance.mask.area)
    x1, y1, x2, y2 = instance.box_xyxy
    return (x2 - x1) * (y2 - y1)


def size_name(instance: Instance) -> str:
    """One of `SIZES`, by the bounds of COCO's evaluation."""
    area = area_of(instance)
    return SIZES[0] if area < _SMALL else SIZES[1] if area < _MEDIUM else SIZES[2]
