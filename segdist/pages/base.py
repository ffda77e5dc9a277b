"""Pages about data: one self-contained HTML file of tables, bars and pictures."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from segdist.core import storage
from segdist.core.panels import ImageHWC, colour, encode_jpeg
from segdist.core.redaction import redacted_value

_LONGEST = 640
"""Pixels of a picture's longest side."""


@dataclass(frozen=True)
class Figure:
    """A picture with its caption."""

    src: str
    title: str
    text: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a histogram: the text below it, its value, and its parts (number of the series, height in 0..1)."""

    label: str
    value: int
    parts: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Section:
    """A part of a page: any of a table, bars (label, value, share of the longest), columns and pictures."""

    title: str
    note: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    bars: Sequence[tuple[str, str, float]] = ()
    columns: Sequence[Column] = ()
    figures: Sequence[Figure] = field(default_factory=list)


def write_page(
    uri: str,
    title: str,
    sections: Iterable[Section],
    *,
    note: str = "",
    classes: Sequence[str] = (),
    series: Sequence[str] = (),
    pairs: bool = False,
) -> None:
    """Write a page.

    Args:
        uri: where.
        title: its heading.
        sections: what it shows.
        note: below the heading.
        classes: named in a legend with their colours.
        series: what the parts of columns stand for, named in a legend.
        pairs: sections side by side where the window is wide.
    """
    legend = [(name, colour(k)) for k, name in enumerate(classes)]
    render(uri, "page", title=title, note=note, sections=list(sections), legend=legend, series=series, pairs=pairs)


def render(uri: str, template: str, **values: object) -> None:
    """Write a page from one of the templates here; `title` and `note` are what every page has."""
    text = _environment().get_template(f"{template}.html.jinja").render(**values)
    storage.write_atomic(uri, text.encode())


def picture(image_HWC: ImageHWC) -> str:
    """An image as a data URI, at a size that suits a page."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(shrunk(image_HWC), quality=82)).decode()


def shrunk(image_HWC: ImageHWC, longest: int = _LONGEST) -> ImageHWC:
    """The image with a longest side of at most this many pixels."""
    height, width = image_HWC.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image_HWC
    size_wh = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image_HWC, size_wh, interpolation=cv2.INTER_AREA).astype("uint8")


@cache
def _environment() -> Environment:
    folder = FileSystemLoader(Path(__file__).with_name("templates"))
    return Environment(autoescape=True, finalize=redacted_value, undefined=StrictUndefined, loader=folder)
