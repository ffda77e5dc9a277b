"""Wall cracks: dark, thin, branching, tapering lines on textured, shaded walls, between things that are none."""

import numpy as np

from segdist.formats.synthetic.scenes.canvas import Bools, Canvas, Colour, Floats, jitter, quad

_WALLS: tuple[Colour, ...] = (
    (0.80, 0.78, 0.73), (0.72, 0.72, 0.72), (0.62, 0.61, 0.58), (0.84, 0.80, 0.68),
    (0.66, 0.72, 0.74), (0.78, 0.66, 0.57), (0.55, 0.55, 0.54),
)  # fmt: skip
_TRUNK = (0.017, 0.034)
"""Width of a crack where it is widest, as a share of the side: 2 to 4 pixels of 128."""
_TIP = 0.012
"""Width at the tips: 1.5 pixels of 128, the least that a mask can follow."""


def draw_cracks(canvas: Canvas, objects: bool) -> None:  # noqa: FBT001 - every scene has this signature
    """A wall with up to three cracks; each connected crack is one instance."""
    rng = canvas.rng
    _wall(canvas)
    if objects:
        _cracks(canvas)
    for thing, chance in ((_cable, 0.45), (_socket, 0.4), (_nails, 0.35)):
        if rng.random() < chance:
            thing(canvas)
    canvas.light(1 + canvas.gradient(rng.uniform(0, 360)) * np.float32(rng.uniform(0.1, 0.5)))
    if rng.random() < 0.35:
        _shadow(canvas)


def _wall(canvas: Canvas) -> None:
    rng = canvas.rng
    canvas.image_HWC[:] = jitter(rng, _WALLS[rng.integers(len(_WALLS))], 0.06)
    canvas.light(1 + canvas.clouds(3) * np.float32(rng.uniform(0.01, 0.04)))
    canvas.light(1 + canvas.clouds(canvas.size // 4, octaves=2) * np.float32(rng.uniform(0.005, 0.035)))
    for _ in range(rng.integers(0, 3)):
        _stain(canvas)
    if rng.random() < 0.25:
        _joint(canvas)


def _stain(canvas: Canvas) -> None:
    rng = canvas.rng
    spot = canvas.soft(canvas.disc(rng.random(2), rng.uniform(0.05, 0.25), squash=rng.uniform(0.4, 1)), 0.04)
    spot *= (1 + 0.4 * canvas.clouds(8)).clip(0, 2)
    dirt: Colour = (0.42, 0.35, 0.26) if rng.random() < 0.6 else (0.93, 0.92, 0.9)
    canvas.tint(spot * np.float32(rng.uniform(0.1, 0.35)), dirt)


def _joint(canvas: Canvas) -> None:
    """A straight, even groove between panels: a line, and no crack."""
    rng = canvas.rng
    where = rng.uniform(0.1, 0.9)
    ends = [[-0.1, where], [1.1, where + rng.uniform(-0.04, 0.04)]]
    line = np.asarray(ends if rng.random() < 0.5 else [p[::-1] for p in ends], np.float32)
    canvas.light(1 - canvas.soft(canvas.stroke(line, rng.uniform(0.012, 0.02)), 0.003) * np.float32(0.16))


def _cracks(canvas: Canvas) -> None:
    rng = canvas.rng
    darkness = rng.uniform(0.55, 0.82)
    hole = np.zeros_like(canvas.owner_HW, dtype=np.bool_)
    rim = np.zeros_like(hole)
    for _ in range(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])):
        crack = _network(canvas)
        touched = np.unique(canvas.owner_HW[crack])
        owners = touched[touched > 0]
        owner = int(owners[0]) if len(owners) else canvas.new_instance("crack")
        for other in owners[1:]:  # this crack joins two: together they are one
            canvas.owner_HW[canvas.owner_HW == other] = owner
        canvas.owner_HW[crack] = owner
        hole |= crack
        rim |= np.roll(crack, (2, 2), (0, 1))
    canvas.light(1 + canvas.soft(rim & ~hole, 0.002) * np.float32(rng.uniform(0, 0.25)))
    depth = (darkness + 0.1 * canvas.clouds(canvas.size // 8)).clip(0.35, 0.95).astype(np.float32)
    canvas.light(1 - canvas.soft(hole, 0.0016) * depth)


def _network(canvas: Canvas) -> Bools:
    """A trunk and its branches."""
    rng = canvas.rng
    width = rng.uniform(*_TRUNK)
    trunk, heading = _start(rng)
    path = _walk(rng, trunk, heading, rng.uniform(0.45, 1.1))
    mask = canvas.stroke(path, _taper(len(path), width, rng))
    for _ in range(rng.integers(0, 4)):
        at = int(rng.integers(len(path) // 6, max(len(path) * 5 // 6, len(path) // 6 + 1)))
        ahead = path[min(at + 1, len(path) - 1)] - path[max(at - 1, 0)]
        turn = np.deg2rad(rng.uniform(25, 70)) * rng.choice([-1, 1])
        branch = _walk(rng, path[at], float(np.arctan2(ahead[1], ahead[0]) + turn), rng.uniform(0.12, 0.4))
        mask |= canvas.stroke(branch, _taper(len(branch), width * rng.uniform(0.5, 0.8), rng))
    return mask


def _start(rng: np.random.Generator) -> tuple[Floats, float]:
    """A point at the rim or inside, and a heading that crosses the picture."""
    point = np.asarray(rng.uniform(0.05, 0.95, 2), np.float32)
    if rng.random() < 0.6:
        point[rng.integers(2)] = rng.choice([-0.02, 1.02])
    target = rng.uniform(0.3, 0.7, 2) - point
    return point, float(np.arctan2(target[1], target[0]) + rng.normal(0, 0.3))


def _walk(rng: np.random.Generator, start: Floats, heading: float, length: float) -> Floats:
    """A random walk: many small turns that lead back to the heading, and a few sharp kinks."""
    steps = max(int(length / 0.022), 3)
    turns = rng.normal(0, 0.33, steps) + (rng.random(steps) < 0.12) * rng.normal(0, 0.9, steps)
    drift = 0.0
    angles = np.empty(steps)
    for i, turn in enumerate(turns):
        drift = 0.72 * drift + turn
        angles[i] = heading + drift
    strides = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.014, 0.03, (steps, 1))
    return np.concatenate([start[None], start + np.cumsum(strides, 0)]).astype(np.float32)


def _taper(count: int, width: float, rng: np.random.Generator) -> Floats:
    """Widths that shrink towards the tip and waver on the way."""
    along = np.linspace(1, 0, count) ** 0.6
    return np.asarray(np.maximum(width * along * rng.uniform(0.75, 1.15, count), _TIP), np.float32)


def _cable(canvas: Canvas) -> None:
    """A cable or a pipe in front of the wall: even width, smooth, with a highlight and a shadow."""
    rng = canvas.rng
    along = np.linspace(-0.1, 1.1, 24)
    sag = rng.uniform(-0.12, 0.12) * np.sin(np.pi * along) + rng.uniform(-0.15, 0.15) * along
    line = np.stack([along, rng.uniform(0.05, 0.95) + sag], 1).astype(np.float32)
    line = line if rng.random() < 0.5 else line[:, ::-1]
    width = rng.uniform(0.016, 0.06)
    canvas.light(1 - canvas.soft(canvas.stroke(line + np.float32(0.6 * width), width), 0.01) * np.float32(0.3))
    tones: tuple[Colour, ...] = ((0.12, 0.12, 0.13), (0.85, 0.84, 0.82), (0.45, 0.46, 0.48), (0.6, 0.38, 0.22))
    tone = jitter(rng, tones[rng.integers(len(tones))], 0.05)
    canvas.paint(canvas.stroke(line, width), tone)
    shine = canvas.stroke(line - np.float32(0.15 * width), width * 0.3)
    canvas.tint(canvas.soft(shine, 0.003) * np.float32(0.3), (1.0, 1.0, 1.0))


def _socket(canvas: Canvas) -> None:
    """A socket or a switch plate with its shadow."""
    rng = canvas.rng
    centre, side = rng.uniform(0.1, 0.9, 2), rng.uniform(0.1, 0.17)
    tilt = rng.uniform(-4, 4)
    plate = canvas.polygon(quad(centre, (side, side * rng.uniform(0.9, 1.4)), tilt))
    canvas.light(1 - canvas.soft(np.roll(plate, (3, 2), (0, 1)), 0.008) * np.float32(0.4))
    canvas.paint(plate, jitter(rng, (0.9, 0.9, 0.87), 0.05))
    if rng.random() < 0.5:
        for shift in (-0.2, 0.2):
            canvas.paint(canvas.disc(centre + np.array([shift * side, 0]), side * 0.07), (0.12, 0.12, 0.12))
    else:
        canvas.paint(canvas.polygon(quad(centre, (side * 0.45, side * 0.6), tilt)), (0.8, 0.8, 0.77))


def _nails(canvas: Canvas) -> None:
    rng = canvas.rng
    for _ in range(rng.integers(1, 6)):
        canvas.paint(canvas.disc(rng.random(2), rng.uniform(0.006, 0.014)), jitter(rng, (0.25, 0.24, 0.23), 0.1))


def _shadow(canvas: Canvas) -> None:
    rng = canvas.rng
    band = canvas.polygon(quad(rng.random(2), (2.0, rng.uniform(0.1, 0.5)), rng.uniform(0, 180)))
    canvas.light(1 - canvas.soft(band, rng.uniform(0.005, 0.04)) * np.float32(rng.uniform(0.1, 0.35)))
