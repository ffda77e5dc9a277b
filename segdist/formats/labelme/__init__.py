"""LabelMe: one JSON file an image, with polygons, rectangles, circles, lines, masks; the image beside it or inside."""

from segdist.data.listing import Listing
from segdist.formats.labelme.reader import SHAPES, Format, Options

__all__ = ["Format", "Options", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is a JSON file with `shapes`."""
    return any(SHAPES.search(files.head(name)) for name in files.with_suffix(".json")[:5])
