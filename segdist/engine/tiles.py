"""Large images in tiles that overlap, and what is found in them joined without seams.

Every pixel is decided by one tile: the one from whose border it is farthest away. An object that a tile sees whole is
taken from that tile as it is; one that no tile sees whole is put together from what each tile decides. Pieces belong to
one object if they agree where their tiles overlap.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise

import numpy as np

from segdist.core import masks
from segdist.core.errors import SpecError
from segdist.core.masks import Mask
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt, Rle
from segdist.core.spec import EvaluateSpec, TileSpec
from segdist.metrics.matching import overlap_matrix
from segdist.metrics.objects import one_to_one
from segdist.nets.segmenter import Segmenter

PredictImages = Callable[[Sequence[ImageHWC], Sequence[Prompt]], list[tuple[Instance, ...]]]
"""`Segmenter.predict`, or something around it."""
Span = tuple[int, int]
AGREE = 0.5
"""IoU, where two tiles overlap, from which on two pieces are one object."""
MOST_TILES = 100_000
PIXELS_AT_ONCE = 2**20
"""Of tiles in one batch: a U-Net needs about a kilobyte for each."""
NEARLY_ALL = 0.9
"""Share of what the tiles decide of an object that a mask must have to be the whole object."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image, in its pixels; spans are (first, end).

    Attributes:
        rows, columns: what the network sees.
        own_rows, own_columns: the part of it that this tile decides; those of all tiles cover each pixel once.
    """

    rows: Span
    columns: Span
    own_rows: Span
    own_columns: Span

    def cut(self, image_HWC: ImageHWC) -> ImageHWC:
        """The pixels that the network sees."""
        return np.ascontiguousarray(image_HWC[slice(*self.rows), slice(*self.columns)])

    def common(self, other: "Tile") -> tuple[Span, Span] | None:
        """Rows and columns that both tiles see."""
        rows, columns = _common(self.rows, other.rows), _common(self.columns, other.columns)
        return (rows, columns) if rows and columns else None

    def local(self, rows: Span, columns: Span) -> tuple[slice, slice]:
        """A part of the image in the tile's own pixels."""
        (top, _), (left, _) = self.rows, self.columns
        return slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left)


def tiles_of(size_hw: tuple[int, int], *, size: int, overlap: float) -> list[Tile]:
    """The tiles of an image, row by row; one where the image is no larger than a tile.

    Args:
        size_hw: of the image.
        size: side of a tile in pixels.
        overlap: share of the side that neighbours have in common at least.

    Raises:
        SpecError: there would be too many.
    """
    common = min(round(size * overlap), size - 1)
    rows, columns = (_spans(length, size, common) for length in size_hw)
    if len(rows) * len(columns) > MOST_TILES:
        raise SpecError(
            f"An image must be cut into at most {MOST_TILES:,} tiles, but tiles of {size} pixels with an overlap of "
            f"{overlap:g} make {len(rows) * len(columns):,} of {size_hw[0]} x {size_hw[1]} pixels. Choose larger ones."
        )
    return [Tile(r, c, own_r, own_c) for r, own_r in rows for c, own_c in columns]


def predict_tiled(
    predict: PredictImages,
    image_HWC: ImageHWC,
    prompt: Prompt,
    *,
    size: int,
    overlap: float,
    batch_size: int = 1,
    region_classes: Collection[str] = (),
) -> tuple[Instance, ...]:
    """What is in a large image; never more than a batch of tiles goes through the network at once.

    Args:
        predict: of a network.
        image_HWC: RGB at its own size.
        prompt: for the whole image; each tile is shown the boxes that reach into it.
        size: side of a tile in pixels.
        overlap: share of the side that neighbours have in common at least.
        batch_size: tiles at a time.
        region_classes: classes of which there is one region an image.

    Returns:
        Instances in the pixels of the image; with boxes in the prompt one a box, in order.

    Raises:
        SpecError: the image is larger than a tile, and the prompt has points.
    """
    size_hw = image_HWC.shape[0], image_HWC.shape[1]
    tiles = tiles_of(size_hw, size=size, overlap=overlap)
    if len(tiles) == 1:
        return predict([image_HWC], [prompt])[0]
    if prompt.points_xy:
        raise SpecError("Points cannot be shown to a model that sees an image in tiles. Show it boxes, or no tiles.")
    pieces: list[_Piece] = []
    waiting = (k for k, tile in enumerate(tiles) if not prompt.boxes_xyxy or _shown(prompt, tile)[1])
    while chosen := list(islice(waiting, batch_size)):
        shown = [_shown(prompt, tiles[k]) for k in chosen]
        found = predict([tiles[k].cut(image_HWC) for k in chosen], [p for p, _ in shown])
        for k, (_, boxes), instances in zip(chosen, shown, found, strict=True):
            names = boxes if prompt.boxes_xyxy else [None] * len(instances)
            pieces += _pieces(k, instances, names, tiles, size_hw)
    if prompt.boxes_xyxy:
        return _of_boxes(pieces, prompt, size_hw)
    regions = [p for p in pieces if p.instance.label in region_classes]
    objects = [p for p in pieces if p.instance.label not in region_classes]
    groups = [*_by_class(regions), *_by_agreement(objects)]
    joined = (_joined(group, size_hw, whole=group[0].instance.label not in region_classes) for group in groups)
    return tuple(sorted((i for i in joined if i is not None), key=lambda i: -i.score))


def tile_size(spec: TileSpec, network: Segmenter) -> int:
    """Side of a tile in pixels; `network` means what the model sees at once."""
    return int(network.options.image_size) if spec.size == "network" else spec.size


def with_small_batches(evaluate: EvaluateSpec, network: Segmenter) -> EvaluateSpec:
    """Settings under which tiles that go through the network together have no more pixels than memory holds."""
    if evaluate.tile is None:
        return evaluate
    side = max(tile_size(evaluate.tile, network), int(network.options.image_size))
    most = max(1, PIXELS_AT_ONCE // side**2)
    return evaluate.model_copy(update={"batch_size": min(evaluate.batch_size, most)})


@dataclass(frozen=True)
class _Piece:
    """What one tile found, in the pixels of the image.

    Attributes:
        tile: its number.
        instance: with the whole mask.
        own: the pixels that the tile decides.
        seen_whole: whether it touches no border of the tile beyond which the image goes on.
        shared: for each tile that overlaps, by number, the pixels in common, at the size of what both see.
        box: number of the prompt's box that it belongs to; None without.
    """

    tile: int
    instance: Instance
    own: Rle
    seen_whole: bool
    shared: dict[int, Rle] = field(default_factory=dict)
    box: int | None = None

    @property
    def area(self) -> int:
        """In pixels, of the whole mask."""
        return self.instance.mask.area if self.instance.mask else 0


def _pieces(
    number: int,
    instances: Sequence[Instance],
    boxes: Sequence[int | None],
    tiles: Sequence[Tile],
    size_hw: tuple[int, int],
) -> Iterator[_Piece]:
    tile = tiles[number]
    common = {k: both for k, other in enumerate(tiles) if k != number and (both := tile.common(other))}
    at_yx = tile.rows[0], tile.columns[0]
    own_at = tile.own_rows[0], tile.own_columns[0]
    for instance, box in zip(instances, boxes, strict=True):
        assert instance.mask is not None
        mask_HW = masks.decode(instance.mask)
        rle = masks.place(mask_HW, at_yx, size_hw)
        own = masks.place(mask_HW[tile.local(tile.own_rows, tile.own_columns)], own_at, size_hw)
        shared = {k: masks.encode(mask_HW[tile.local(*both)]) for k, both in common.items()}
        shared = {k: part for k, part in shared.items() if part.area}
        placed = replace(instance, mask=rle, box_xyxy=rle.box_xyxy)
        yield _Piece(number, placed, own, _seen_whole(mask_HW, tile, size_hw), shared, box)


def _seen_whole(mask_HW: Mask, tile: Tile, size_hw: tuple[int, int]) -> bool:
    (top, bottom), (left, right) = tile.rows, tile.columns
    height, width = size_hw
    cut = (top > 0 and mask_HW[0].any()) or (bottom < height and mask_HW[-1].any())
    return not (cut or (left > 0 and mask_HW[:, 0].any()) or (right < width and mask_HW[:, -1].any()))


def _by_class(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    groups: dict[str, list[_Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.instance.label, []).append(piece)
    return list(groups.values())


def _by_agreement(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Pieces that are one object: those that agree where their tiles overlap, directly or through others."""
    by_tile: dict[tuple[int, str], list[int]] = {}
    for k, piece in enumerate(pieces):
        by_tile.setdefault((piece.tile, piece.instance.label), []).append(k)
    leader = list(range(len(pieces)))
    for (tile, label), mine in by_tile.items():
        for other in sorted({o for k in mine for o in pieces[k].shared if o > tile}):
            here = [k for k in mine if other in pieces[k].shared]
            there = [k for k in by_tile.get((other, label), ()) if tile in pieces[k].shared]
            overlaps = overlap_matrix([pieces[k].shared[other] for k in here], [pieces[k].shared[tile] for k in there])
            for a, b in one_to_one(overlaps, at_least=AGREE):
                leader[_root(leader, there[b])] = _root(leader, here[a])
    groups: dict[int, list[_Piece]] = {}
    for k, piece in enumerate(pieces):
        groups.setdefault(_root(leader, k), []).append(piece)
    return list(groups.values())


def _root(leader: list[int], k: int) -> int:
    while leader[k] != k:
        leader[k] = leader[leader[k]]
        k = leader[k]
    return k


def _joined(group: Sequence[_Piece], size_hw: tuple[int, int], *, whole: bool) -> Instance | None:
    """One instance; None where no tile decides a pixel of it.

    Args:
        group: its pieces, of one label.
        size_hw: of the image.
        whole: whether to take it as it is from a tile that sees all of it.
    """
    mask = masks.union([p.own for p in group], size_hw=size_hw)
    complete = [p for p in group if p.seen_whole and p.area >= max(1, NEARLY_ALL * mask.area)] if whole else []
    if complete:
        return max(complete, key=lambda p: (p.own.area / p.area, p.instance.score)).instance
    if not mask.area:
        return None
    score = sum(p.instance.score * p.own.area for p in group) / sum(p.own.area for p in group)
    return replace(group[0].instance, mask=mask, box_xyxy=mask.box_xyxy, score=float(score))


def _of_boxes(pieces: Sequence[_Piece], prompt: Prompt, size_hw: tuple[int, int]) -> tuple[Instance, ...]:
    """One instance a box of the prompt, put together from the tiles that were shown it."""
    found = []
    for number, (box_xyxy, label) in enumerate(zip(prompt.boxes_xyxy, prompt.labels, strict=True)):
        group = [p for p in pieces if p.box == number]
        instance = _joined(group, size_hw, whole=False)
        found.append(instance or Instance(label, masks.empty(size_hw), box_xyxy, score=0.0))
    return tuple(found)


def _shown(prompt: Prompt, tile: Tile) -> tuple[Prompt, list[int]]:
    """The boxes that reach into a tile, cut to it and in its pixels, and their numbers."""
    (top, bottom), (left, right) = tile.rows, tile.columns
    boxes, numbers = [], []
    for number, (x1, y1, x2, y2) in enumerate(prompt.boxes_xyxy):
        a, b, c, d = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
        if a < c and b < d:
            boxes.append((a - left, b - top, c - left, d - top))
            numbers.append(number)
    labels = tuple(prompt.labels[k] for k in numbers)
    return Prompt(boxes_xyxy=tuple(boxes), labels=labels, text=prompt.text), numbers


def _spans(length: int, size: int, common: int) -> list[tuple[Span, Span]]:
    """What each tile sees and what it decides, along one side; the last tile ends where the image does."""
    if length <= size:
        return [((0, length), (0, length))]
    starts = [*range(0, length - size, size - common), length - size]
    borders = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), length]
    return [((s, s + size), own) for s, own in zip(starts, pairwise(borders), strict=True)]


def _common(a: Span, b: Span) -> Span | None:
    first, end = max(a[0], b[0]), min(a[1], b[1])
    return (first, end) if first < end else None
