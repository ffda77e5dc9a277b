"""PaliGemma's JSON lines: image, prefix (what is asked), suffix (boxes and masks as tokens, with class names)."""

from segdist.formats.paligemma.reader import Format, Options
from segdist.formats.paligemma.writer import Writer
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of

__all__ = ["Format", "Options", "Writer", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there are JSON lines with a prefix and a suffix."""
    return bool(looks_of(files).like("paligemma", ".jsonl"))
