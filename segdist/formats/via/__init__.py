"""VGG Image Annotator 2 and 1: a project, or its annotations as JSON or CSV; all of its shapes."""

from segdist.formats.via.reader import SUFFIXES, Format, Options
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of

__all__ = ["Format", "Options", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is such a file."""
    return bool(looks_of(files).like("via", *SUFFIXES))
