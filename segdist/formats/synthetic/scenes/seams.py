"""Drywall seams: long, pale, low-contrast strips of tape and mud with joints, under shadows and beside screw spots."""

import numpy as np

from segdist.formats.synthetic.scenes.canvas import Bools, Canvas, Colour, Floats, jitter, quad

_BOARDS: tuple[Colour, ...] = ((0.66, 0.66, 0.64), (0.60, 0.62, 0.63), (0.68, 0.64, 0.57), (0.58, 0.65, 0.60))
_MUD: Colour = (0.92, 0.91, 0.87)


def draw_seams(canvas: Canvas, objects: bool) -> None:  # noqa: FBT001 - every scene has this signature
    """A board wall with one seam, two parallel ones, or one with T-joints; what is connected is one instance."""
    rng = canvas.rng
    canvas.image_HWC[:] = jitter(rng, _BOARDS[rng.integers(len(_BOARDS))], 0.05)
    canvas.light(1 + canvas.clouds(4) * np.float32(rng.uniform(0.008, 0.025)))
    canvas.light(1 + canvas.clouds(canvas.size // 3, octaves=1) * np.float32(rng.uniform(0.004, 0.015)))
    tilt = rng.uniform(6, 30) * rng.choice([-1, 1]) + rng.choice([0, 90])
    if rng.random() < 0.75:
        _screws(canvas, tilt)
    if rng.random() < 0.3:
        _pencil(canvas, tilt)
    if objects:
        _seams(canvas, tilt)
    if rng.random() < 0.3:
        _box(canvas, tilt)
    canvas.light(1 + canvas.gradient(rng.uniform(0, 360)) * np.float32(rng.uniform(0.1, 0.45)))
    for _ in range(rng.integers(0, 3)):
        _shadow(canvas)


def _seams(canvas: Canvas, tilt: float) -> None:
    rng = canvas.rng
    apart = rng.uniform(0.38, 0.6)
    offsets = (-apart / 2, apart / 2) if rng.random() < 0.3 else (rng.uniform(-0.2, 0.2),)
    contrast = np.float32(rng.uniform(0.4, 0.8))
    for offset in offsets:
        seam = _network(canvas, tilt, offset, lone=len(offsets) == 1)
        canvas.owner_HW[seam] = canvas.new_instance("seam")
        mud = canvas.soft(seam, rng.uniform(0.002, 0.005)) * contrast
        canvas.tint(mud * (1 + 0.12 * canvas.clouds(12)).clip(0.5, 1.2).astype(np.float32), jitter(rng, _MUD, 0.03))
        _edges(canvas, seam)


def _edges(canvas: Canvas, seam: Bools) -> None:
    """The light from one side catches the ridge of the mud and leaves the other edge in shade."""
    for shift, amount in ((1, 0.08), (-1, -0.12)):
        edge = np.roll(seam, (shift, shift), (0, 1)) & ~seam
        canvas.light(1 + canvas.soft(edge, 0.002) * np.float32(amount))


def _network(canvas: Canvas, tilt: float, offset: float, *, lone: bool) -> Bools:
    """A strip across the picture and the joints that butt against it."""
    rng = canvas.rng
    width = rng.uniform(0.028, 0.05)
    along = np.array([np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))])
    across = np.array([-along[1], along[0]])
    middle = np.array([0.5, 0.5]) + across * offset
    reach = (-0.8, 0.8) if rng.random() < 0.6 else (-0.8, rng.uniform(0.1, 0.35))
    mask = _strip(canvas, middle + along * reach[0], middle + along * reach[1], width)
    if lone and rng.random() < 0.85:
        for side in rng.permutation([-1, 1])[: rng.integers(1, 3)]:
            foot = middle + along * rng.uniform(-0.32, min(0.32, reach[1]))
            mask |= _strip(canvas, foot, foot + across * side * rng.uniform(0.25, 0.9), width * rng.uniform(0.7, 1))
    return mask


def _strip(canvas: Canvas, start: Floats, end: Floats, width: float) -> Bools:
    """A straight strip whose edges waver as a trowel does."""
    rng = canvas.rng
    t = np.linspace(0, 1, 28)[:, None]
    knots = np.interp(t[:, 0], np.linspace(0, 1, 7), rng.normal(0, width * 0.12, 7))
    direction = (end - start) / np.linalg.norm(end - start)
    line = start + (end - start) * t + knots[:, None] * np.array([-direction[1], direction[0]])
    widths = width * np.interp(t[:, 0], np.linspace(0, 1, 9), rng.uniform(0.85, 1.2, 9))
    return canvas.stroke(line.astype(np.float32), widths.astype(np.float32))


def _screws(canvas: Canvas, tilt: float) -> None:
    """Rows of mud dots over screws: as pale as a seam, and no seam."""
    rng = canvas.rng
    along = np.array([np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))])
    across = np.array([-along[1], along[0]])
    spots = np.zeros(canvas.owner_HW.shape, np.bool_)
    row, gap = rng.uniform(-0.45, 0.45), rng.uniform(0.16, 0.26)
    for k in range(-4, 5):
        spots |= canvas.disc(0.5 + across * row + along * k * gap, rng.uniform(0.012, 0.024))
    canvas.tint(canvas.soft(spots, 0.004) * np.float32(rng.uniform(0.3, 0.7)), _MUD)


def _pencil(canvas: Canvas, tilt: float) -> None:
    rng = canvas.rng
    line = canvas.polygon(quad(rng.random(2), (rng.uniform(0.2, 0.8), 0.006), tilt + rng.choice([0, 90])))
    canvas.light(1 - canvas.soft(line, 0.002) * np.float32(0.25))


def _box(canvas: Canvas, tilt: float) -> None:
    """An electrical box: dark opening in a pale or blue frame."""
    rng = canvas.rng
    centre, side = rng.uniform(0.1, 0.9, 2), rng.uniform(0.08, 0.16)
    frames: tuple[Colour, ...] = ((0.25, 0.4, 0.7), (0.75, 0.75, 0.73))
    canvas.paint(canvas.polygon(quad(centre, (side, side * 1.3), tilt)), frames[rng.integers(2)])
    canvas.paint(canvas.polygon(quad(centre, (side * 0.75, side * 1.05), tilt)), jitter(rng, (0.2, 0.18, 0.17), 0.05))


def _shadow(canvas: Canvas) -> None:
    rng = canvas.rng
    band = canvas.polygon(quad(rng.random(2), (2.0, rng.uniform(0.06, 0.5)), rng.uniform(0, 180)))
    canvas.light(1 - canvas.soft(band, rng.uniform(0.005, 0.05)) * np.float32(rng.uniform(0.1, 0.35)))
