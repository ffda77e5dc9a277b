"""PaliGemma's JSON lines: image, prefix (what is asked), suffix (boxes and masks as tokens, with class names)."""

from segdist.data.listing import Listing
from segdist.data.looks import looks_of
from segdist.formats.paligemma.reader import Format, Options
from segdist.formats.paligemma.writer import Writer

__all__ = ["Format", "Options", "Writer", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there are JSON lines with a prefix and a suffix."""
    return bool(looks_of(files).like("paligemma", ".jsonl"))
