"""Hugging Face rows with `image` and `objects`: Parquet or Arrow files, or what `datasets.save_to_disk` writes.

`objects` holds id, category, bbox, area, segmentation and iscrowd, as a list of objects or as an object of lists.
`category` is a class label of the features, or text. `segmentation` is a list of polygons or run lengths, as in COCO.
"""

from segdist.core.errors import DataError
from segdist.datasets.shards import MANIFEST
from segdist.formats.hf_objects.reader import Format, Options
from segdist.formats.hf_objects.writer import Writer
from segdist.reading.listing import Listing
from segdist.reading.table_rows import TableRows

__all__ = ["Format", "Options", "Writer", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is a table with the columns `image` and `objects`."""
    return MANIFEST not in files and any(_has_columns(files.uri(n)) for n in files.with_suffix(".parquet", ".arrow"))


def _has_columns(uri: str) -> bool:
    try:
        return {"image", "objects"} <= set(TableRows().schema(uri).names)
    except DataError:
        return False
