"""Pages about data: one self-contained HTML file of tables, bars and pictures."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, StrictUndefined

from segdist import storage
from segdist.panels import ImageHWC, colour, encode_jpeg

_LONGEST = 640
"""Pixels of a picture's longest side."""


@dataclass(frozen=True)
class Figure:
    """A picture with its caption."""

    src: str
    title: str
    text: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page: any of a table, bars (label, value, share of the longest) and pictures."""

    title: str
    note: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    bars: Sequence[tuple[str, str, float]] = ()
    figures: Sequence[Figure] = field(default_factory=list)


def write_page(
    uri: str,
    title: str,
    sections: Iterable[Section],
    *,
    note: str = "",
    classes: Sequence[str] = (),
    pairs: bool = False,
) -> None:
    """Write a page.

    Args:
        uri: where.
        title: its heading.
        sections: what it shows.
        note: below the heading.
        classes: named in a legend with their colours.
        pairs: sections side by side where the window is wide.
    """
    legend = [(name, colour(k)) for k, name in enumerate(classes)]
    text = _template().render(title=title, note=note, sections=list(sections), legend=legend, pairs=pairs)
    storage.write_atomic(uri, text.encode())


def picture(image_HWC: ImageHWC) -> str:
    """An image as a data URI, at a size that suits a page."""
    height, width = image_HWC.shape[:2]
    scale = _LONGEST / max(height, width)
    if scale < 1:
        size_wh = (max(round(width * scale), 1), max(round(height * scale), 1))
        image_HWC = cv2.resize(image_HWC, size_wh, interpolation=cv2.INTER_AREA).astype("uint8")
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image_HWC, quality=82)).decode()


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(Path(__file__).with_name("page.html.jinja").read_text())
