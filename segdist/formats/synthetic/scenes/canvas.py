"""Paint and truth side by side: whoever paints a pixel last owns it.

Everything is drawn at twice the size and averaged down, so that edges in the image are soft and masks follow them.
Coordinates are shares of the side: (0, 0) top left, (1, 1) bottom right.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Colour = tuple[float, float, float]
Drawing = tuple[NDArray[np.uint8], list[tuple[str, Bools]]]

SCALE = 2
"""Drawn pixels a final pixel, in each direction."""
SHIFT = 4
"""Fractional bits of OpenCV's sub-pixel coordinates."""
SMALLEST = 12
"""Instances with fewer final pixels are left out of the truth: nobody would annotate them."""


class Canvas:
    """An image under way, RGB 0..1, and the owner of each pixel."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        self.side = size * SCALE
        self.rng = rng
        self.image_HWC: Floats = np.zeros((self.side, self.side, 3), np.float32)
        self.owner_HW: NDArray[np.int16] = np.zeros((self.side, self.side), np.int16)
        self._labels: list[str] = []

    def new_instance(self, label: str) -> int:
        """The number under which the pixels of a new instance are painted; 0 is nobody's."""
        self._labels.append(label)
        return len(self._labels)

    def points(self, points_xy: Sequence[Sequence[float]] | Sequence[Floats] | Floats) -> NDArray[np.int32]:
        """Shares of the side as OpenCV's fixed-point pixels."""
        scaled = np.asarray(points_xy, np.float64) * (self.side * (1 << SHIFT))
        return np.round(scaled).clip(-(2**26), 2**26).astype(np.int32)

    def polygon(self, points_xy: Sequence[Sequence[float]] | Sequence[Floats] | Floats) -> Bools:
        """The pixels inside a polygon."""
        mask = np.zeros(self.owner_HW.shape, np.uint8)
        cv2.fillPoly(mask, [self.points(points_xy)], 1, shift=SHIFT)
        return mask.view(np.bool_)

    def disc(
        self, centre_xy: Sequence[float] | Floats, radius: float, *, squash: float = 1.0, degrees: float = 0.0
    ) -> Bools:
        """The pixels inside an ellipse."""
        mask = np.zeros(self.owner_HW.shape, np.uint8)
        centre = self.points(np.asarray([centre_xy]))[0]
        axes = self.points([[radius, radius * squash]])[0]
        cv2.ellipse(mask, centre.tolist(), axes.tolist(), degrees, 0, 360, 1, -1, shift=SHIFT)
        return mask.view(np.bool_)

    def stroke(self, points_xy: Floats, width: float | Floats) -> Bools:
        """The pixels of a line, `width` as a share of the side, for the line or for each of its points."""
        mask = np.zeros(self.owner_HW.shape, np.uint8)
        points = self.points(points_xy)
        widths = np.broadcast_to(np.asarray(width, np.float32) * self.side, len(points))
        for start, end, thickness in zip(points[:-1], points[1:], widths, strict=False):
            cv2.line(mask, start.tolist(), end.tolist(), 1, max(1, round(float(thickness))), shift=SHIFT)
        return mask.view(np.bool_)

    def paint(self, where: Bools, colour: Colour | Floats, *, owner: int = 0, opacity: float = 1.0) -> None:
        """Colour the pixels and give them to their new owner."""
        if opacity == 1.0:
            self.image_HWC[where] = colour
        else:
            self.image_HWC[where] += (np.asarray(colour, np.float32) - self.image_HWC[where]) * opacity
        self.owner_HW[where] = owner

    def tint(self, amount_HW: Floats, colour: Colour) -> None:
        """Blend a colour in, 0..1 a pixel; ownership stays."""
        self.image_HWC += (np.asarray(colour, np.float32) - self.image_HWC) * amount_HW[..., None]

    def light(self, factor_HW: Floats) -> None:
        """Make pixels brighter or darker; ownership stays."""
        self.image_HWC *= factor_HW[..., None]

    def soft(self, where: Bools, blur: float) -> Floats:
        """A mask with blurred edges; `blur` is a share of the side."""
        return self._blurred(where.astype(np.float32), blur * self.side)

    def clouds(self, cells: int, *, octaves: int = 3) -> Floats:
        """Smooth noise with standard deviation 1; `cells` blobs along a side in the coarsest octave."""
        total = np.zeros(self.owner_HW.shape, np.float32)
        for octave in range(octaves):
            side = min(cells * 2**octave + 1, self.side)
            grid = self.rng.standard_normal((side, side), dtype=np.float32)
            total += cv2.resize(grid, (self.side, self.side), interpolation=cv2.INTER_CUBIC) * 0.6**octave
        return np.asarray(total / max(float(total.std()), 1e-6), np.float32)

    def gradient(self, degrees: float) -> Floats:
        """A ramp from -0.5 to 0.5 along a direction."""
        y_HW, x_HW = np.mgrid[0 : self.side, 0 : self.side].astype(np.float32) / self.side - 0.5
        angle = np.deg2rad(degrees)
        return np.asarray(x_HW * np.cos(angle) + y_HW * np.sin(angle), np.float32) / np.float32(np.sqrt(2))

    def finish(self) -> Drawing:
        """Average down, add the camera's blur and noise, and read off the masks."""
        size = (self.size, self.size)
        image: Floats = np.asarray(cv2.resize(self.image_HWC, size, interpolation=cv2.INTER_AREA), np.float32)
        image = self._blurred(image, float(self.rng.uniform(0.0, 0.55)) * self.size / 128)
        image *= 1 + np.float32(self.rng.uniform(-0.04, 0.04))
        image += self.rng.standard_normal(image.shape, dtype=np.float32) * np.float32(self.rng.uniform(0.004, 0.02))
        return (image.clip(0, 1) * 255).round().astype(np.uint8), self._instances(size)

    def _instances(self, size: tuple[int, int]) -> list[tuple[str, Bools]]:
        found = []
        free = np.ones(size, np.bool_)
        for number, label in enumerate(self._labels, start=1):
            share = cv2.resize((self.owner_HW == number).astype(np.float32), size, interpolation=cv2.INTER_AREA)
            mask = (share >= 0.5) & free  # of two halves, the first painted gets the pixel
            free &= ~mask
            if mask.sum() >= SMALLEST:
                found.append((label, mask))
        return found

    @staticmethod
    def _blurred(image: Floats, sigma: float) -> Floats:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32) if sigma > 0.2 else image


def jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """A colour a little brighter or darker, and a little off in hue."""
    shift = rng.uniform(-amount, amount) + rng.uniform(-amount, amount, 3) * 0.35
    red, green, blue = np.clip(np.asarray(colour) + shift, 0.02, 0.98)
    return float(red), float(green), float(blue)


def quad(centre_xy: Sequence[float] | Floats, size_wh: Sequence[float], degrees: float = 0.0) -> Floats:
    """The corners of a rotated rectangle."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * np.asarray(size_wh)
    return np.asarray(corners @ turn.T + np.asarray(centre_xy), np.float32)
