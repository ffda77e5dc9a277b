"""LabelMe: one JSON file an image, with polygons, rectangles, circles, lines, masks; the image beside it or inside."""

from segdist.formats.labelme.reader import Format, Options
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of

__all__ = ["Format", "Options", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is a JSON file with `shapes`."""
    return bool(looks_of(files).like("labelme", ".json"))
