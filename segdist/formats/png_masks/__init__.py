"""Mask images beside photos: binary, one number a class, or one number an object.

Layout: `images/` and `masks/` (other names by option), with or without a folder for each split above or below them; the
mask of `images/a.jpg` is `masks/a.png`. `masks.json` and, for objects, `instances.jsonl` say what the numbers mean;
where they are missing, the options say it.
"""

from segdist.formats.png_masks.reader import Format, Options
from segdist.formats.png_masks.tables import KINDS
from segdist.formats.png_masks.writer import Writer
from segdist.reading.listing import Listing

__all__ = ["Format", "Options", "Writer", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is a `masks.json`, or PNG files in a folder `masks`."""
    return KINDS in files or any("masks" in name.split("/")[:-1] for name in files.with_suffix(".png"))
