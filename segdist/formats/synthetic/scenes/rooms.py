"""Rooms in one-point perspective: wall, ceiling, floor and thin trim as stuff, between doors, windows and furniture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segdist.formats.synthetic.scenes.canvas import Canvas, Colour, Floats, jitter

_WALLS: tuple[Colour, ...] = (
    (0.82, 0.80, 0.74), (0.70, 0.76, 0.80), (0.76, 0.80, 0.70), (0.85, 0.76, 0.68), (0.64, 0.66, 0.70),
    (0.87, 0.86, 0.84),
)  # fmt: skip
_FLOORS: tuple[Colour, ...] = ((0.52, 0.36, 0.22), (0.66, 0.50, 0.33), (0.40, 0.28, 0.20), (0.55, 0.54, 0.52))
_FURNITURE: tuple[Colour, ...] = ((0.30, 0.34, 0.42), (0.50, 0.30, 0.25), (0.36, 0.26, 0.18), (0.25, 0.40, 0.36))
_SCALE_PER_DEPTH = 3.5
"""How much larger than the back wall a cross-section of the room appears, for each unit of depth towards the viewer."""
_VIEWER = 4.0
"""A depth beyond every edge of the picture."""


@dataclass(frozen=True)
class _Room:
    """A box in one-point perspective: the back wall's rectangle, and the vanishing point that all depths share."""

    left: float
    top: float
    right: float
    bottom: float
    vanish_xy: Floats

    def at(self, x: float, y: float, depth: float = 0.0) -> Floats:
        """The picture point of a room point: x, y in 0..1 across the back wall; depth 0 there, larger nearer."""
        back = np.array([self.left + (self.right - self.left) * x, self.top + (self.bottom - self.top) * y])
        scale = 1 + _SCALE_PER_DEPTH * depth
        return np.asarray(self.vanish_xy + (back - self.vanish_xy) * scale, np.float32)

    def strip(self, x1: float, x2: float, y1: float, y2: float) -> list[Floats]:
        """A rectangle on the back wall."""
        return [self.at(x1, y1), self.at(x2, y1), self.at(x2, y2), self.at(x1, y2)]

    def side(self, x: float, d1: float, d2: float, y1: float, y2: float) -> list[Floats]:
        """A rectangle on a side wall (x = 0 or 1) between two depths."""
        return [self.at(x, y1, d1), self.at(x, y1, d2), self.at(x, y2, d2), self.at(x, y2, d1)]

    def flat(self, y: float, x1: float, x2: float, d1: float, d2: float) -> list[Floats]:
        """A rectangle on the floor (y = 1) or the ceiling (y = 0) between two depths."""
        return [self.at(x1, y, d1), self.at(x2, y, d1), self.at(x2, y, d2), self.at(x1, y, d2)]


def draw_rooms(canvas: Canvas, objects: bool) -> None:  # noqa: ARG001, FBT001 - every scene has this signature
    """A furnished room; wall, ceiling, floor and trim are one instance each."""
    rng = canvas.rng
    room = _room(rng)
    wall, ceiling, floor, trim = (canvas.new_instance(name) for name in ("wall", "ceiling", "floor", "trim"))
    _surfaces(canvas, room, wall, ceiling, floor)
    _trims(canvas, room, trim)
    for thing, chance in ((_window, 0.55), (_door, 0.5), (_picture, 0.5), (_lamp, 0.6)):
        if rng.random() < chance:
            thing(canvas, room)
    for _ in range(rng.integers(0, 3)):
        _furniture(canvas, room)
    _lighting(canvas, room)


def _room(rng: np.random.Generator) -> _Room:
    left, right = rng.uniform(0.06, 0.36), rng.uniform(0.64, 0.94)
    top, bottom = rng.uniform(0.12, 0.3), rng.uniform(0.58, 0.78)
    vanish = np.array([rng.uniform(0.35, 0.65), rng.uniform(0.36, 0.52)], np.float32)
    return _Room(left, top, right, bottom, vanish)


def _surfaces(canvas: Canvas, room: _Room, wall: int, ceiling: int, floor: int) -> None:
    """The five sides of the box; each faces the light differently."""
    rng = canvas.rng
    tone = np.asarray(jitter(rng, _WALLS[rng.integers(len(_WALLS))], 0.05), np.float32)
    sides = rng.uniform(0.72, 1.0, 3)
    canvas.paint(canvas.polygon(room.strip(0, 1, 0, 1)), tone * sides[0], owner=wall)
    canvas.paint(canvas.polygon(room.side(0, 0, _VIEWER, 0, 1)), tone * sides[1], owner=wall)
    canvas.paint(canvas.polygon(room.side(1, 0, _VIEWER, 0, 1)), tone * sides[2], owner=wall)
    pale = np.asarray(jitter(rng, (0.9, 0.9, 0.88), 0.05), np.float32)
    canvas.paint(canvas.polygon(room.flat(0, 0, 1, 0, _VIEWER)), pale * rng.uniform(0.85, 1.05), owner=ceiling)
    ground = np.asarray(jitter(rng, _FLOORS[rng.integers(len(_FLOORS))], 0.05), np.float32)
    canvas.paint(canvas.polygon(room.flat(1, 0, 1, 0, _VIEWER)), ground, owner=floor)
    _boards(canvas, room, floor)
    canvas.light(1 + canvas.clouds(4) * np.float32(0.012))


def _boards(canvas: Canvas, room: _Room, floor: int) -> None:
    """Planks or tiles: each a little brighter or darker."""
    rng = canvas.rng
    shade = np.ones(canvas.owner_HW.shape, np.float32)
    columns = int(rng.integers(5, 11))
    rows = (0.0, 0.05, 0.12, 0.22, 0.4, _VIEWER) if rng.random() < 0.5 else (0.0, _VIEWER)
    for column in range(columns):
        for near, far in zip(rows[1:], rows[:-1], strict=True):
            tile = canvas.polygon(room.flat(1, column / columns, (column + 1) / columns, far, near))
            shade[tile] = 1 + rng.uniform(-0.1, 0.1)
    canvas.light(np.where(canvas.owner_HW == floor, shade, 1).astype(np.float32))


def _trims(canvas: Canvas, room: _Room, trim: int) -> None:
    """A baseboard along the floor, and often a crown moulding along the ceiling."""
    rng = canvas.rng
    bright = np.asarray(jitter(rng, (0.95, 0.94, 0.92), 0.03), np.float32)
    tone = bright if rng.random() < 0.7 else bright * np.array([0.5, 0.36, 0.25], np.float32)
    base, crown = rng.uniform(0.07, 0.11), rng.uniform(0.045, 0.075)
    bands = [(1 - base, 1.0)] + ([(0.0, crown)] if rng.random() < 0.6 else [])
    for low, high in bands:
        shapes = [room.strip(0, 1, low, high), *(room.side(x, 0, _VIEWER, low, high) for x in (0, 1))]
        for shape, shade in zip(shapes, (1.0, 0.93, 0.88), strict=True):
            canvas.paint(canvas.polygon(shape), (tone * shade).clip(0, 1), owner=trim)
            edge = np.stack([shape[0], shape[1]] if low else [shape[3], shape[2]])
            canvas.light(1 - canvas.soft(canvas.stroke(edge, 0.005), 0.002) * np.float32(0.3))


def _window(canvas: Canvas, room: _Room) -> None:
    """A window on the back wall, with its light on the floor."""
    rng = canvas.rng
    x, y = rng.uniform(0.08, 0.55), rng.uniform(0.14, 0.25)
    width, height = rng.uniform(0.22, 0.38), rng.uniform(0.3, 0.42)
    canvas.paint(canvas.polygon(room.strip(x, x + width, y, y + height)), jitter(rng, (0.93, 0.93, 0.92), 0.03))
    sky = jitter(rng, (0.72, 0.84, 0.95), 0.08)
    half = width / 2
    for k in (0, 1):
        pane = room.strip(x + k * half + 0.02, x + (k + 1) * half - 0.015, y + 0.03, y + height - 0.03)
        canvas.paint(canvas.polygon(pane), sky)
    patch = canvas.polygon(room.flat(1, x + 0.05, x + width + 0.1, 0.05, rng.uniform(0.12, 0.25)))
    canvas.light(1 + canvas.soft(patch, 0.01) * np.float32(rng.uniform(0, 0.35)))


def _door(canvas: Canvas, room: _Room) -> None:
    """A door with its casing, on the back wall or on a side; it cuts the baseboard."""
    rng = canvas.rng
    leaf = jitter(rng, (0.55, 0.40, 0.28) if rng.random() < 0.5 else (0.78, 0.77, 0.74), 0.05)
    frame = jitter(rng, (0.6, 0.56, 0.5), 0.08)
    top = rng.uniform(0.2, 0.3)
    if rng.random() < 0.5:
        x, width = rng.uniform(0.05, 0.7), rng.uniform(0.16, 0.24)
        shapes = room.strip(x - 0.02, x + width + 0.02, top - 0.03, 1), room.strip(x, x + width, top, 1)
    else:
        wall, near = float(rng.integers(2)), rng.uniform(0.03, 0.08)
        shapes = (
            room.side(wall, near - 0.01, near + 0.11, top - 0.03, 1),
            room.side(wall, near, near + 0.1, top, 1),
        )
    for shape, tone in zip(shapes, (frame, leaf), strict=True):
        canvas.paint(canvas.polygon(shape), tone)
    corner = shapes[1][1] * 0.85 + shapes[1][0] * 0.15
    foot = shapes[1][2] * 0.85 + shapes[1][3] * 0.15
    canvas.paint(canvas.disc((corner + foot) / 2, 0.008), (0.85, 0.75, 0.4))


def _picture(canvas: Canvas, room: _Room) -> None:
    rng = canvas.rng
    x, y, side = rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.4), rng.uniform(0.08, 0.16)
    canvas.paint(canvas.polygon(room.strip(x, x + side, y, y + side * 1.2)), jitter(rng, (0.2, 0.17, 0.14), 0.05))
    inner = room.strip(x + 0.015, x + side - 0.015, y + 0.02, y + side * 1.2 - 0.02)
    canvas.paint(canvas.polygon(inner), _any(rng, ((0.5, 0.6, 0.4), (0.8, 0.6, 0.3), (0.3, 0.4, 0.6))))


def _lamp(canvas: Canvas, room: _Room) -> None:
    """A lamp under the ceiling, and its glow."""
    rng = canvas.rng
    place = room.at(rng.uniform(0.25, 0.75), 0.0, rng.uniform(0.03, 0.12))
    canvas.paint(canvas.disc(place, rng.uniform(0.02, 0.035), squash=0.5), (1.0, 0.97, 0.88))
    glow = canvas.soft(canvas.disc(place, 0.12, squash=0.7), 0.08)
    canvas.light(1 + glow * np.float32(rng.uniform(0.05, 0.2)))


def _furniture(canvas: Canvas, room: _Room) -> None:
    """A cabinet, table or sofa: a box that stands on the floor and hides what is behind it."""
    rng = canvas.rng
    x, width = rng.uniform(-0.05, 0.7), rng.uniform(0.2, 0.45)
    back, front = sorted(rng.uniform(0.0, 0.14, 2))
    front += 0.05
    tall = 1 - rng.uniform(0.22, 0.55)
    tone = np.asarray(jitter(rng, _any(rng, _FURNITURE), 0.06), np.float32)
    shadow = canvas.polygon(room.flat(1, x - 0.04, x + width + 0.04, max(back - 0.02, 0), front + 0.03))
    canvas.light(1 - canvas.soft(shadow, 0.015) * np.float32(0.45))
    x = float(np.clip(x, 0, 1 - width))
    corners = [[room.at(u, v, d) for u in (x, x + width) for v in (tall, 1.0)] for d in (back, front)]
    (a, b, c, d), (e, f, g, h) = corners
    for shape, shade in (((a, b, f, e), 0.7), ((c, d, h, g), 0.75), ((a, c, g, e), 1.15), ((e, g, h, f), 1.0)):
        canvas.paint(canvas.polygon(np.stack(shape)), (tone * shade).clip(0, 1))
    for k in range(1, int(rng.integers(1, 4))):
        split = np.stack([e + (g - e) * k / 3, f + (h - f) * k / 3])
        canvas.light(1 - canvas.stroke(split, 0.005).astype(np.float32) * np.float32(0.4))


def _lighting(canvas: Canvas, room: _Room) -> None:
    """Darker corners where surfaces meet, a ramp over the picture, and warm or cold light."""
    rng = canvas.rng
    folds = np.zeros(canvas.owner_HW.shape, np.bool_)
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        folds |= canvas.stroke(np.stack([room.at(x, y, 0), room.at(x, y, _VIEWER)]), 0.006)
    for x in (0, 1):
        folds |= canvas.stroke(np.stack([room.at(x, 0), room.at(x, 1)]), 0.006)
    structure = canvas.owner_HW > 0
    canvas.light(1 - canvas.soft(folds & structure, 0.02) * np.float32(rng.uniform(0.1, 0.35)) * structure)
    canvas.light(1 + canvas.gradient(rng.uniform(0, 360)) * np.float32(rng.uniform(0.05, 0.4)))
    warmth = rng.uniform(-0.05, 0.05)
    canvas.image_HWC *= np.array([1 + warmth, 1, 1 - warmth], np.float32) * np.float32(rng.uniform(0.75, 1.05))


def _any(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    return colours[int(rng.integers(len(colours)))]
