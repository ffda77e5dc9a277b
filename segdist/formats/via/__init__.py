"""VGG Image Annotator 2 and 1: a project, or its annotations as JSON or CSV; all of its shapes."""

from segdist.data.listing import Listing
from segdist.data.looks import looks_of
from segdist.formats.via.reader import SUFFIXES, Format, Options

__all__ = ["Format", "Options", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is such a file."""
    return bool(looks_of(files).like("via", *SUFFIXES))
