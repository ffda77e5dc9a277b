"""LabelMe: one JSON file an image, with polygons, rectangles, circles, lines, masks; the image beside it or inside."""

from segdist.data.listing import Listing
from segdist.data.looks import looks_of
from segdist.formats.labelme.reader import Format, Options

__all__ = ["Format", "Options", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is a JSON file with `shapes`."""
    return bool(looks_of(files).like("labelme", ".json"))
