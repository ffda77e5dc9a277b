"""Roofs from above: turned rectangles and L-shapes with gables and shadows, among roads, trees and cars."""

from dataclasses import dataclass

import numpy as np

from segdist.formats.synthetic.scenes.canvas import Bools, Canvas, Colour, Floats, jitter, quad

_GROUNDS: tuple[Colour, ...] = ((0.36, 0.44, 0.26), (0.48, 0.50, 0.33), (0.58, 0.53, 0.42), (0.30, 0.39, 0.24))
_ROOFS: tuple[Colour, ...] = (
    (0.66, 0.33, 0.24), (0.50, 0.30, 0.24), (0.42, 0.43, 0.46), (0.28, 0.29, 0.32),
    (0.78, 0.77, 0.74), (0.60, 0.52, 0.44), (0.45, 0.50, 0.56),
)  # fmt: skip
_CARS: tuple[Colour, ...] = ((0.9, 0.9, 0.9), (0.1, 0.1, 0.12), (0.6, 0.1, 0.1), (0.15, 0.25, 0.5), (0.6, 0.6, 0.62))


@dataclass(frozen=True)
class _Wing:
    """One rectangle of a building."""

    centre_xy: Floats
    size_wh: tuple[float, float]
    degrees: float

    @property
    def corners(self) -> Floats:
        return quad(self.centre_xy, self.size_wh, self.degrees)


def draw_roofs(canvas: Canvas, objects: bool) -> None:  # noqa: ARG001, FBT001 - every scene has this signature
    """A block seen from above; each building is one instance."""
    rng = canvas.rng
    _ground(canvas)
    block, sun = rng.uniform(0, 90), rng.uniform(0, 2 * np.pi)
    shade = np.array([np.cos(sun), np.sin(sun)]) * rng.uniform(0.015, 0.045)
    roads = _road(canvas, block) if rng.random() < 0.7 else np.zeros(canvas.owner_HW.shape, np.bool_)
    _buildings(canvas, roads, block, shade)
    _cars(canvas, roads, block, shade)
    _trees(canvas, shade)
    canvas.light(1 + canvas.gradient(rng.uniform(0, 360)) * np.float32(rng.uniform(0, 0.2)))


def _ground(canvas: Canvas) -> None:
    rng = canvas.rng
    canvas.image_HWC[:] = jitter(rng, _GROUNDS[rng.integers(len(_GROUNDS))], 0.05)
    other = jitter(rng, _GROUNDS[rng.integers(len(_GROUNDS))], 0.05)
    canvas.tint((canvas.clouds(3) * 0.3 + 0.3).clip(0, 0.8).astype(np.float32), other)
    canvas.light(1 + canvas.clouds(canvas.size // 4, octaves=2) * np.float32(rng.uniform(0.03, 0.08)))


def _road(canvas: Canvas, block: float) -> Bools:
    """One or two roads along the block; returns the pixels they cover."""
    rng = canvas.rng
    covered = np.zeros(canvas.owner_HW.shape, np.bool_)
    tone = jitter(rng, (0.40, 0.40, 0.41), 0.06)
    for turn in (0, 90)[: rng.choice([1, 2], p=[0.75, 0.25])]:
        centre, width = rng.uniform(0.1, 0.9, 2), rng.uniform(0.08, 0.14)
        path = canvas.polygon(quad(centre, (3.0, width * 1.45), block + turn))
        canvas.paint(path, jitter(rng, (0.62, 0.61, 0.58), 0.03))
        canvas.paint(canvas.polygon(quad(centre, (3.0, width), block + turn)), tone)
        covered |= path
        along = np.array([np.cos(np.deg2rad(block + turn)), np.sin(np.deg2rad(block + turn))])
        for k in range(-12, 13):
            dash = canvas.polygon(quad(centre + along * k * 0.1, (0.05, 0.008), block + turn))
            canvas.paint(dash, (0.9, 0.9, 0.85), opacity=0.7)
    return covered


def _buildings(canvas: Canvas, roads: Bools, block: float, shade: Floats) -> None:
    """As many buildings as find room beside the roads and each other, up to a random number."""
    rng = canvas.rng
    taken, plans = roads.copy(), []
    wanted = rng.integers(3, 11)
    for _ in range(40):
        wings = _wings(rng, block)
        room = np.logical_or.reduce([canvas.polygon(_grown(w)) for w in wings])
        if not (taken & room).any():
            taken |= room
            plans.append(wings)
        if len(plans) == wanted:
            break
    shadows = [canvas.polygon(w.corners + shade * k) for wings in plans for w in wings for k in (0.5, 1.0)]
    if shadows:
        canvas.light(1 - canvas.soft(np.logical_or.reduce(shadows), 0.003) * np.float32(0.5))
    for wings in plans:
        _building(canvas, wings, shade)
    tiles = 1 + canvas.clouds(canvas.size // 3, octaves=1) * np.float32(0.03)
    canvas.light(np.where(canvas.owner_HW > 0, tiles, 1).astype(np.float32))


def _building(canvas: Canvas, wings: list[_Wing], shade: Floats) -> None:
    rng = canvas.rng
    owner = canvas.new_instance("roof")
    tone = np.asarray(jitter(rng, _ROOFS[rng.integers(len(_ROOFS))], 0.06), np.float32)
    paint = _gable if rng.random() < 0.65 else _flat
    for wing in wings:
        paint(canvas, wing, tone, shade, owner)


def _wings(rng: np.random.Generator, block: float) -> list[_Wing]:
    """A rectangle, or two that form an L or a T."""
    width, depth = rng.uniform(0.16, 0.34), rng.uniform(0.12, 0.22)
    centre = np.asarray(rng.uniform(0.02, 0.98, 2), np.float32)
    degrees = block + rng.choice([0, 90]) + rng.normal(0, 4)
    main = _Wing(centre, (width, depth), degrees)
    if rng.random() < 0.5:
        return [main]
    thick = depth * rng.uniform(0.6, 0.9)
    inner = np.array([rng.choice([-1, 0, 1]) * (width - thick) / 2, depth * rng.uniform(0.6, 0.9)])
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return [main, _Wing((centre + turn @ inner).astype(np.float32), (thick, depth * 1.2), degrees)]


def _grown(wing: _Wing) -> Floats:
    """The room that a building keeps to its neighbours."""
    return quad(wing.centre_xy, (wing.size_wh[0] + 0.05, wing.size_wh[1] + 0.05), wing.degrees)


def _gable(canvas: Canvas, wing: _Wing, tone: Floats, shade: Floats, owner: int) -> None:
    """Two slopes that meet at a ridge; the one turned to the sun is brighter."""
    a, b, c, d = wing.corners
    if wing.size_wh[0] < wing.size_wh[1]:
        a, b, c, d = b, c, d, a
    left, right = (a + d) / 2, (b + c) / 2
    for slope, outward in (((a, b, right, left), a - d), ((left, right, c, d), d - a)):
        facing = -float(np.dot(outward, shade) / (np.linalg.norm(outward) * np.linalg.norm(shade)))
        canvas.paint(canvas.polygon(np.stack(slope)), (tone * (1 + 0.22 * facing)).clip(0, 1), owner=owner)
    ridge = canvas.stroke(np.stack([left, right]), 0.006) & (canvas.owner_HW == owner)
    canvas.paint(ridge, (0.95, 0.93, 0.9), owner=owner, opacity=0.25)


def _flat(canvas: Canvas, wing: _Wing, tone: Floats, shade: Floats, owner: int) -> None:
    """A flat roof with a parapet and perhaps a ventilation unit, which belongs to the roof."""
    rng = canvas.rng
    canvas.paint(canvas.polygon(wing.corners), (tone * 1.15).clip(0, 1), owner=owner)
    inner = quad(wing.centre_xy, (wing.size_wh[0] - 0.02, wing.size_wh[1] - 0.02), wing.degrees)
    canvas.paint(canvas.polygon(inner), tone, owner=owner)
    if rng.random() < 0.6:
        centre = wing.centre_xy + rng.uniform(-0.03, 0.03, 2)
        unit = quad(centre, (0.035, 0.03), wing.degrees)
        canvas.paint(canvas.polygon(unit + shade * 0.4) & (canvas.owner_HW == owner), tone * 0.55, owner=owner)
        canvas.paint(canvas.polygon(unit), (0.7, 0.7, 0.7), owner=owner)


def _cars(canvas: Canvas, roads: Bools, block: float, shade: Floats) -> None:
    rng = canvas.rng
    for _ in range(rng.integers(2, 12)):
        centre, degrees = rng.uniform(0, 1, 2), block + rng.choice([0, 90])
        x, y = np.minimum((centre * canvas.side).astype(int), canvas.side - 1)
        if not roads[y, x]:
            continue
        body = quad(centre, (0.05, 0.024), degrees)
        canvas.light(1 - canvas.polygon(body + shade * 0.25).astype(np.float32) * np.float32(0.4))
        tone = jitter(rng, _CARS[rng.integers(len(_CARS))], 0.05)
        canvas.paint(canvas.polygon(body), tone)
        canvas.paint(canvas.polygon(quad(centre, (0.024, 0.018), degrees)), (0.15, 0.17, 0.2))


def _trees(canvas: Canvas, shade: Floats) -> None:
    """Crowns of several leafy discs; they hide what is below."""
    rng = canvas.rng
    leaves = 1 + canvas.clouds(canvas.size // 5, octaves=2) * np.float32(0.18)
    crowns = [_crown(canvas) for _ in range(rng.integers(2, 9))]
    dx, dy = np.round(shade * canvas.side * 0.8).astype(int)
    cast = np.roll(np.logical_or.reduce(crowns), (dy, dx), (0, 1))
    canvas.light(1 - canvas.soft(cast, 0.004) * np.float32(0.4))
    for crown in crowns:
        canvas.paint(crown, jitter(rng, (0.17, 0.31, 0.14), 0.05))
    canvas.light(np.where(np.logical_or.reduce(crowns), leaves, 1).astype(np.float32))


def _crown(canvas: Canvas) -> Bools:
    rng = canvas.rng
    centre, radius = rng.random(2), rng.uniform(0.02, 0.05)
    discs = [canvas.disc(centre + rng.normal(0, radius * 0.45, 2), radius * rng.uniform(0.5, 0.8)) for _ in range(6)]
    return np.asarray(np.logical_or.reduce(discs))
