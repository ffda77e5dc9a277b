"""Post-processing of predicted masks: refined to the image's edges, without small parts, without holes.

Each mask is looked at on its own, in a cut around its box.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from segdist.core import extras, masks
from segdist.core.errors import SpecError
from segdist.core.masks import Mask
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance
from segdist.core.spec import PostSpec

CRF_STEPS = 5
"""Steps of mean-field inference."""
_SURE = (0.55, 0.95)
"""How sure the field may be of a pixel: never wholly."""


def cleaned(
    image_HWC: ImageHWC, instances: Sequence[Instance], post: PostSpec, *, keep_all: bool = False
) -> tuple[Instance, ...]:
    """The instances with better masks.

    Args:
        image_HWC: RGB; the masks have its size.
        instances: what a network found.
        post: what is to be done.
        keep_all: also those of whose mask nothing is left, as where each answers a box.

    Raises:
        SpecError: the library that `post.refine` needs is not installed.
    """
    better = [_cleaned(image_HWC, instance, post) for instance in instances]
    return tuple(i for i in better if keep_all or (i.mask is not None and i.mask.area))


def guided_filter(
    guide_HW: NDArray[np.number], values_HW: NDArray[np.number], *, radius: int, epsilon: float
) -> NDArray[np.float32]:
    """Values smoothed so that their edges follow those of a guide (He et al. 2013, equations 5, 6 and 8).

    Written here, because OpenCV has it in its contributed modules only, whose wheels exclude the headless one.

    Args:
        guide_HW: a grey image, 0..1.
        values_HW: what to smooth, e.g. a mask.
        radius: half the side of the window, in pixels; windows end at the frame.
        epsilon: the variance of the guide from which on it is followed.
    """

    def mean(a_HW: NDArray[np.float64]) -> NDArray[np.float64]:
        size = (2 * radius + 1, 2 * radius + 1)
        summed = cv2.boxFilter(a_HW, cv2.CV_64F, size, normalize=False, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(summed) / count_HW

    ones_HW = np.ones(guide_HW.shape, np.float64)
    size = (2 * radius + 1, 2 * radius + 1)
    count_HW = np.asarray(
        cv2.boxFilter(ones_HW, cv2.CV_64F, size, normalize=False, borderType=cv2.BORDER_CONSTANT), np.float64
    )
    guide, values = guide_HW.astype(np.float64), values_HW.astype(np.float64)
    mean_guide, mean_values = mean(guide), mean(values)
    slope = (mean(guide * values) - mean_guide * mean_values) / (mean(guide * guide) - mean_guide**2 + epsilon)
    offset = mean_values - slope * mean_guide
    return (mean(slope) * guide + mean(offset)).astype(np.float32)


def dense_crf(image_HWC: ImageHWC, mask_HW: Mask, *, score: float, radius: float, contrast: float) -> Mask:
    """The most probable mask of a fully connected conditional random field (Krähenbühl and Koltun 2011).

    Args:
        image_HWC: RGB.
        mask_HW: what a network says.
        score: how sure it is.
        radius: deviation of the pairs' distance, in pixels.
        contrast: deviation of the difference of colours, in 0..1.

    Raises:
        SpecError: pydensecrf2 is not installed.
    """
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise SpecError(extras.needs("`refine: crf`", "pydensecrf")) from error
    height, width = mask_HW.shape
    sure = float(np.clip(score, *_SURE))
    object_HW = np.where(mask_HW, sure, 1 - sure).astype(np.float32)
    field = densecrf.DenseCRF2D(width, height, 2)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(np.stack([1 - object_HW, object_HW]).reshape(2, -1))))
    field.addPairwiseGaussian(sxy=3, compat=3)
    # A copy: it asks for memory that it may write to, and a decoded image is none.
    colours_HWC = np.array(image_HWC, order="C")
    field.addPairwiseBilateral(sxy=radius, srgb=max(1.0, 255 * contrast), rgbim=colours_HWC, compat=10)
    chances_2N = np.asarray(field.inference(CRF_STEPS))
    return np.asarray(chances_2N.argmax(axis=0).reshape(height, width) == 1)


def without_small_parts(mask_HW: Mask, least: float) -> Mask:
    """The mask without connected parts (also at corners) of fewer than `least` pixels."""
    _, parts_HW = cv2.connectedComponents(mask_HW.view(np.uint8), connectivity=8)
    keeps = _areas(parts_HW) >= least
    keeps[0] = False
    return np.asarray(keeps[parts_HW])


def without_small_holes(mask_HW: Mask, least: float) -> Mask:
    """The mask with holes of fewer than `least` pixels filled; what touches the frame is no hole.

    Args:
        mask_HW: with a margin of unset pixels where the image goes on.
        least: in pixels.
    """
    _, parts_HW = cv2.connectedComponents((~mask_HW).view(np.uint8), connectivity=4)
    fills = _areas(parts_HW) < least
    fills[0] = False
    frame = np.unique(np.concatenate([parts_HW[0], parts_HW[-1], parts_HW[:, 0], parts_HW[:, -1]]))
    fills[frame] = False
    return np.asarray(mask_HW | fills[parts_HW])


def _areas(parts_HW: NDArray[np.number]) -> NDArray[np.int64]:
    """Pixels of each part; OpenCV, which finds boxes and centres with them, takes twice as long."""
    return np.bincount(parts_HW.ravel().astype(np.int64))


def _cleaned(image_HWC: ImageHWC, instance: Instance, post: PostSpec) -> Instance:
    if instance.mask is None or not instance.mask.area:
        return instance
    size_hw = instance.mask.size_hw
    rows, columns = _around(instance.mask.box_xyxy, size_hw, margin=2 * post.radius + 1)
    mask_HW = masks.decode_cut(instance.mask, (rows, columns))
    mask_HW = _refined(image_HWC[rows, columns], mask_HW, instance.score, post)
    pixels = size_hw[0] * size_hw[1]
    if least := post.least_part(pixels):
        mask_HW = without_small_parts(np.ascontiguousarray(mask_HW), least)
    if least := post.least_hole(pixels):
        mask_HW = without_small_holes(np.ascontiguousarray(mask_HW), least)
    rle = masks.place(np.ascontiguousarray(mask_HW), (rows.start, columns.start), size_hw)
    return replace(instance, mask=rle, box_xyxy=rle.box_xyxy if rle.area else instance.box_xyxy)


def _refined(image_HWC: ImageHWC, mask_HW: Mask, score: float, post: PostSpec) -> Mask:
    if post.refine == "guided_filter":
        grey_HW = cv2.cvtColor(np.ascontiguousarray(image_HWC), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        soft_HW = guided_filter(grey_HW, mask_HW.astype(np.float32), radius=post.radius, epsilon=post.contrast**2)
        return np.asarray(soft_HW > 0.5)
    if post.refine == "crf":
        return dense_crf(image_HWC, mask_HW, score=score, radius=post.radius, contrast=post.contrast)
    return mask_HW


def _around(
    box_xyxy: tuple[float, float, float, float], size_hw: tuple[int, int], *, margin: int
) -> tuple[slice, slice]:
    x1, y1, x2, y2 = (int(v) for v in box_xyxy)
    height, width = size_hw
    return slice(max(0, y1 - margin), min(height, y2 + margin)), slice(max(0, x1 - margin), min(width, x2 + margin))
