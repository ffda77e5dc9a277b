"""Images that look alike: perceptual hashes, and the pairs whose hashes are near.

A hash is the 64-bit pHash (the signs of the low frequencies of a 32 x 32 discrete cosine transform, as in the library
ImageHash), which survives scaling, compression and small changes of light. Flat pictures have hashes of pure noise, so
a pair must also agree in a small grey thumbnail.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

DEFAULT_BITS = 6
"""Bits in which the hashes of near-duplicates may differ, of 64."""
_THUMB = 8
_GREY = 6.0
"""Mean difference of near-duplicates' thumbnails, in grey levels: noise and compression stay below 3."""
_LEAST_CONTRAST = 4.0
"""Standard deviation of a thumbnail, in grey levels, below which a picture is too flat to be compared."""


@dataclass(frozen=True, slots=True)
class ImageHash:
    """What an image looks like, in 72 bytes.

    Attributes:
        phash: 64 bits.
        thumb: 8 x 8 grey levels.
    """

    phash: int
    thumb: bytes


def look(image_HWC: NDArray[np.uint8]) -> ImageHash:
    """The look of an RGB image."""
    grey_HW = cv2.cvtColor(cv2.resize(image_HWC, (128, 128), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    bits = imagehash.phash(Image.fromarray(grey_HW)).hash.reshape(-1)
    thumb = cv2.resize(grey_HW, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA)
    return ImageHash(int.from_bytes(np.packbits(bits).tobytes(), "big"), thumb.tobytes())


def near_pairs(looks: Sequence[ImageHash], *, bits: int) -> Iterator[tuple[int, int]]:
    """Pairs of images that look alike, by their indices.

    Of `bits + 1` bands of a hash, two hashes that differ in at most `bits` bits share one whole: only images that share
    a band are compared (Manku et al. 2007).
    """
    hashes = np.array([one.phash for one in looks], np.uint64)
    thumbs_N64 = np.array([np.frombuffer(one.thumb, np.uint8) for one in looks], np.float32).reshape(-1, _THUMB**2)
    rich = np.flatnonzero(thumbs_N64.std(axis=1) >= _LEAST_CONTRAST)
    seen: set[tuple[int, int]] = set()
    for band in _bands(hashes, bits + 1):
        order = rich[np.argsort(band[rich], kind="stable")]
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, cuts):
            for first, others in _compared(bucket, hashes, thumbs_N64, bits):
                for other in others:
                    pair = (min(first, other), max(first, other))
                    if pair not in seen:
                        seen.add(pair)
                        yield pair


def _bands(hashes: NDArray[np.uint64], count: int) -> Iterator[NDArray[np.uint64]]:
    edges = np.linspace(0, 64, count + 1).astype(int)
    for low, high in pairwise(edges):
        yield (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)


def _compared(
    bucket: NDArray[np.int64], hashes: NDArray[np.uint64], thumbs_N64: NDArray[np.float32], bits: int
) -> Iterator[tuple[int, list[int]]]:
    for place in range(len(bucket) - 1):
        first, others = int(bucket[place]), bucket[place + 1 :]
        near = others[np.bitwise_count(hashes[others] ^ hashes[first]) <= bits]
        if len(near):
            grey = np.abs(thumbs_N64[near] - thumbs_N64[first]).mean(axis=1)
            yield first, near[grey <= _GREY].tolist()


class Groups:
    """Things that belong together because a chain of pairs connects them (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, names: Iterable[str]) -> None:
        """These belong together."""
        first, *rest = names
        root = self.of(first)
        for name in rest:
            other = self.of(name)
            low, high = sorted((root, other))  # the name of a group does not depend on the order of joining
            self._parent[high] = root = low

    def of(self, name: str) -> str:
        """The name of the group: the smallest of its members' names."""
        root = name
        while self._parent.get(root, root) != root:
            root = self._parent[root]
        while self._parent.get(name, name) != root:
            self._parent[name], name = root, self._parent.get(name, name)
        return root
