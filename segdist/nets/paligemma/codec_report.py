"""What a mask codec makes of your masks, before anyone trains: the upper bound of what PaliGemma can draw with it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segdist.core import masks
from segdist.core.records import Instance, Rle, Sample
from segdist.metrics.matching import band_iou
from segdist.nets.paligemma.codec import MaskCodec
from segdist.nets.paligemma.locations import Edges
from segdist.nets.paligemma.objects import to_instances, to_objects

BOUNDARY_SHARE = 0.02
"""Width of the band of boundary IoU as a share of the image's diagonal (Cheng et al. 2021)."""


@dataclass
class ClassReport:
    """The figures of one class; one value an object.

    Attributes:
        ious: of each mask with what came back of it.
        boundary_ious: the same for the bands along their outlines.
        tiled_ious: where each tile of the image is asked for alone and the answers are united.
        lost: objects of which nothing came back.
    """

    ious: list[float] = field(default_factory=list)
    boundary_ious: list[float] = field(default_factory=list)
    tiled_ious: list[float] = field(default_factory=list)
    lost: int = 0

    def as_json(self) -> dict[str, float]:
        """Mean, least and tenth percentile; and what tiling would gain."""
        return {
            "masks": len(self.ious),
            "iou": _rounded(np.mean(self.ious)),
            "iou_p10": _rounded(np.percentile(self.ious, 10)),
            "iou_min": _rounded(min(self.ious)),
            "boundary_iou": _rounded(np.mean(self.boundary_ious)),
            "iou_tiled": _rounded(np.mean(self.tiled_ious)),
            "gain_of_tiling": _rounded(np.mean(self.tiled_ious) - np.mean(self.ious)),
            "lost": self.lost,
        }


def codec_report(
    samples: Iterable[Sample], codec: MaskCodec, *, tiles: int, edges: Edges = "round"
) -> dict[str, ClassReport]:
    """Send every mask through location and mask tokens and back, alone.

    Crowds and instances without a pixel are left out.

    Args:
        samples: with masks.
        codec: what encodes and decodes.
        tiles: rows and columns that images are cut into for `tiled_ious`.
        edges: how boxes become whole pixels.
    """
    found: dict[str, ClassReport] = {}
    for sample in samples:
        for instance in sample.instances:
            if instance.mask is not None and instance.mask.area and not instance.is_crowd:
                report = found.setdefault(instance.label, ClassReport())
                _add(report, instance.mask, codec, tiles, edges)
    return dict(sorted(found.items()))


def through(mask: Rle, codec: MaskCodec, edges: Edges = "round") -> Rle:
    """What comes back of a mask: nothing where its tokens cover no pixel."""
    objects = to_objects([Instance("", mask, mask.box_xyxy)], size_hw=mask.size_hw, codec=codec)
    (back,) = to_instances(objects, size_hw=mask.size_hw, codec=codec, edges=edges)
    return back.mask if back and back.mask else masks.empty(mask.size_hw)


def through_tiles(mask: Rle, codec: MaskCodec, tiles: int, edges: Edges = "round") -> Rle:
    """The same, tile by tile of the image."""
    whole_HW = masks.decode(mask)
    back_HW = np.zeros_like(whole_HW)
    for rows, columns in _grid(mask.size_hw, tiles):
        part_HW = whole_HW[rows, columns]
        if part_HW.any():
            back_HW[rows, columns] = masks.decode(through(masks.encode(part_HW), codec, edges))
    return masks.encode(back_HW)


def boundary_iou(a: Rle, b: Rle) -> float:
    """IoU of the bands along the outlines of two masks (Cheng et al. 2021)."""
    pixels = max(1, round(BOUNDARY_SHARE * float(np.hypot(*a.size_hw))))
    return band_iou(a, b, pixels=pixels) if a.area or b.area else 0.0


def report_text(reports: Mapping[str, ClassReport], *, codec: str, tiles: int, edges: Edges = "round") -> str:
    """The figures as a table for people."""
    width = max([5, *map(len, reports)])
    head = f"{'class':{width}}  masks    IoU  P10 IoU  boundary IoU  {tiles}x{tiles} tiles  gain  lost"
    pasted = "" if edges == "round" else ", pasted into truncated boxes"
    lines = [f"round trip through the mask codec `{codec}`: location tokens and sixteen codes an object{pasted}", head]
    for label, report in reports.items():
        f: dict[str, Any] = report.as_json()
        lines.append(
            f"{label:{width}}  {f['masks']:5d}  {f['iou']:.3f}    {f['iou_p10']:.3f}         {f['boundary_iou']:.3f}"
            f"      {f['iou_tiled']:.3f} {f['gain_of_tiling']:+.3f}  {f['lost']:4d}"
        )
    return "\n".join(lines)


def _add(report: ClassReport, mask: Rle, codec: MaskCodec, tiles: int, edges: Edges) -> None:
    back = through(mask, codec, edges)
    report.ious.append(masks.iou(mask, back))
    report.boundary_ious.append(boundary_iou(mask, back))
    report.tiled_ious.append(masks.iou(mask, through_tiles(mask, codec, tiles, edges)))
    report.lost += not back.area


def _grid(size_hw: tuple[int, int], tiles: int) -> Iterator[tuple[slice, slice]]:
    edges = [np.linspace(0, side, min(tiles, side) + 1).round().astype(int) for side in size_hw]
    for y1, y2 in zip(edges[0], edges[0][1:], strict=False):
        for x1, x2 in zip(edges[1], edges[1][1:], strict=False):
            yield slice(y1, y2), slice(x1, x2)


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)
