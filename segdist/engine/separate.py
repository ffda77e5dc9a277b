"""Objects from regions: what a semantic network draws as one region of a class, as the objects that it shows."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from segdist.core import masks
from segdist.core.masks import Mask
from segdist.core.records import Instance
from segdist.core.spec import PostSpec

_NECK = 0.7
"""Two parts of a region are two objects where what joins them is narrower than this share of the narrower one."""


def separated(
    instances: Sequence[Instance], post: PostSpec, *, region_classes: Collection[str]
) -> tuple[Instance, ...]:
    """The instances, those of region classes as their connected parts, or as the objects that touch in these.

    Every pixel stays in its class, and an object has its region's score; the larger ones come first.

    Args:
        instances: what a network found, one region a class and image for the classes in `region_classes`.
        post: `instances` says how, `stuff` which classes stay whole.
        region_classes: of the network.
    """
    if post.instances == "as_found":
        return tuple(instances)
    apart = set(region_classes) - set(post.stuff)
    return tuple(part for i in instances for part in (_parts(i, post) if i.label in apart else (i,)))


def components(mask_HW: Mask) -> NDArray[np.int32]:
    """(H, W): 0 outside, otherwise the number of the connected part, touching at corners included."""
    return np.asarray(cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)[1], np.int32)


def watershed(mask_HW: Mask) -> NDArray[np.int32]:
    """(H, W): 0 outside, otherwise the number of the object; touching ones are cut at their necks.

    The watershed of the distance to the background (Beucher and Lantuéjoul 1979), from those of its tops from which
    every way to a higher one leads below `_NECK` of the top: the maxima of the reconstruction (Vincent 1993) from that
    share of the distance, so that large and small objects are cut by the same rule.
    """
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed as flooded

    depth_HW = cv2.distanceTransform(np.pad(mask_HW.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    levelled_HW = reconstruction(_NECK * depth_HW, depth_HW)
    tops_HW = local_maxima(levelled_HW, connectivity=2)
    labels_HW = flooded(-depth_HW, components(tops_HW), mask=depth_HW > 0, connectivity=2)
    return np.asarray(labels_HW[1:-1, 1:-1], np.int32)


def _parts(instance: Instance, post: PostSpec) -> Iterator[Instance]:
    if instance.mask is None or not instance.mask.area:
        yield instance
        return
    cut = masks.tight_cut(instance.mask)
    labels_HW = (components if post.instances == "components" else watershed)(masks.decode_cut(instance.mask, cut))
    areas = np.bincount(labels_HW.ravel())
    boxes = find_objects(labels_HW)  # each part is looked at in its own: of a photograph there may be thousands
    for number in sorted(range(1, len(areas)), key=lambda n: -areas[n]):
        if areas[number]:
            rows, columns = boxes[number - 1]
            own = masks.place(
                np.ascontiguousarray(labels_HW[rows, columns] == number),
                (cut[0].start + rows.start, cut[1].start + columns.start),
                instance.mask.size_hw,
            )
            yield replace(instance, mask=own, box_xyxy=own.box_xyxy)
