"""One image under evaluation: its truth beside what was found, with everything that several metrics need of both."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from segdist.core import masks
from segdist.core.masks import Mask
from segdist.core.records import Instance, Rle, Sample

Kept = TypeVar("Kept")


@dataclass(frozen=True, eq=False)
class Region:
    """The pixels of one class in one image, cut out to where there are any, with a margin of one unset pixel.

    The margin stands for what lies around the cut and beyond the frame: both count as outside.

    Attributes:
        truth_HW: pixels of the class.
        guess_HW: pixels that were found.
        counts_HW: pixels whose truth is known; found pixels elsewhere are neither right nor wrong.
        size_hw: of the whole image.
    """

    truth_HW: Mask
    guess_HW: Mask
    counts_HW: Mask
    size_hw: tuple[int, int]

    @property
    def diagonal(self) -> float:
        """Of the image, in pixels."""
        return float(np.hypot(*self.size_hw))


BOUNDARY_FRACTION = 0.02
"""Width of the boundary band as a fraction of the image diagonal (Cheng et al. 2021)."""


class Pair:
    """The truth of one image and what was found in it.

    Crowds, and true boxes whose mask is unknown, are neither right nor wrong: predicted pixels there are left out,
    except where another true mask says what they are.

    Args:
        sample: the truth.
        found: all predicted instances; those scored below `min_scores` count in average precision and calibration only.
        classes: the class names; instances of other labels do not count.
        min_scores: of each class; see `found`.
        boundary_width_fraction: of the band of boundary IoU, of the image diagonal; None takes `BOUNDARY_FRACTION`.
        boundary_width_pixels: the same in pixels, in place of the fraction.

    Raises:
        ValueError: a predicted mask is not of the image's size.
    """

    def __init__(
        self,
        sample: Sample,
        found: Sequence[Instance],
        classes: Sequence[str],
        *,
        min_scores: Mapping[str, float],
        boundary_width_fraction: float | None = None,
        boundary_width_pixels: float | None = None,
    ) -> None:
        self.sample, self.size_hw = sample, sample.size_hw
        diagonal = float(np.hypot(*sample.size_hw))
        self._boundary_width = boundary_width_pixels or (boundary_width_fraction or BOUNDARY_FRACTION) * diagonal
        for instance in found:
            if instance.mask is not None and instance.mask.size_hw != sample.size_hw:
                raise ValueError(
                    f"a predicted mask must have the size (h, w) of its image `{sample.image_id}`, "
                    f"{sample.size_hw}, but has {instance.mask.size_hw}"
                )
        wanted = set(classes)
        self.truths = tuple(i for i in sample.instances if i.label in wanted)
        self.found = tuple(i for i in found if i.label in wanted)
        self.guesses = tuple(i for i in self.found if i.score >= min_scores[i.label])
        present = {i.label for i in (*self.truths, *self.found)}
        self.labels = tuple(label for label in classes if label in present)
        self._rles: dict[str, tuple[Rle, Rle]] = {}
        self._cut: tuple[str, Region] | None = None
        self._kept: dict[Hashable, Any] = {}

    def known(self, label: str) -> list[Instance]:
        """True objects of a class with a mask, crowds left out."""
        return [i for i in self.truths if i.label == label and i.mask is not None and not i.is_crowd]

    def guessed(self, label: str) -> list[Instance]:
        """Found objects of a class."""
        return [i for i in self.guesses if i.label == label]

    def rles(self, label: str) -> tuple[Rle, Rle]:
        """All pixels of a class: true and found."""
        if label not in self._rles:
            self._rles[label] = self._union(self.known(label)), self._union(self.guessed(label))
        return self._rles[label]

    def region(self, label: str) -> Region:
        """The decoded pixels of a class; those of the class asked for last are kept, no others."""
        if self._cut is None or self._cut[0] != label:
            self._cut = label, self._region(label)
        return self._cut[1]

    def once(self, key: Hashable, compute: Callable[[], Kept]) -> Kept:
        """What several metrics need of the image, computed when it is first asked for; small values only."""
        if key not in self._kept:
            self._kept[key] = compute()
        found: Kept = self._kept[key]
        return found

    @cached_property
    def void(self) -> Rle | None:
        """The pixels that nobody annotated: inside crowds and boxes without a mask, but in no true mask."""
        rles = [
            i.mask or masks.from_box(i.box_xyxy, size_hw=self.size_hw)
            for i in self.sample.instances
            if i.mask is None or i.is_crowd
        ]
        if not rles:
            return None
        known = [i.mask for i in self.sample.instances if i.mask is not None and not i.is_crowd]
        region_HW = masks.decode(masks.union(rles, size_hw=self.size_hw))
        return masks.encode(region_HW & ~masks.decode(masks.union(known, size_hw=self.size_hw)))

    def void_area(self, guess: Rle) -> int:
        """Number of found pixels that nobody annotated."""
        return 0 if self.void is None else masks.intersection_area(guess, self.void)

    def boundary_pixels(self) -> int:
        """Width of the boundary band: max(1, round(ratio x diagonal)), as Cheng et al. (2021) have it."""
        return max(1, round(self._boundary_width))

    def _union(self, instances: Sequence[Instance]) -> Rle:
        return masks.union([i.mask for i in instances if i.mask is not None], size_hw=self.size_hw)

    def _region(self, label: str) -> Region:
        truth, guess = self.rles(label)
        cut = masks.tight_cut(truth, guess)
        truth_HW, guess_HW = (masks.decode_cut(r, cut, margin=1) for r in (truth, guess))
        void_HW = np.zeros_like(truth_HW) if self.void is None else masks.decode_cut(self.void, cut, margin=1)
        return Region(truth_HW, guess_HW, ~void_HW, self.size_hw)
