"""PaliGemma's JSON lines: image, prefix (what is asked), suffix (boxes and masks as tokens, with class names)."""

from segdist.data.listing import Listing
from segdist.formats.paligemma.reader import Format, Options
from segdist.formats.paligemma.writer import Writer

__all__ = ["Format", "Options", "Writer", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there are JSON lines with a prefix and a suffix."""
    return any('"suffix"' in files.head(name) for name in files.with_suffix(".jsonl"))
