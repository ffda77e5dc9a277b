"""YOLO text labels with a data.yaml: boxes (`class cx cy w h`) and polygons (`class x1 y1 x2 y2 ...`), in 0..1."""

from segdist.formats.yolo.reader import Format, Options
from segdist.formats.yolo.writer import Writer
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of

__all__ = ["Format", "Options", "Writer", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is a YAML file with `names`, or text files in a `labels` folder or beside their images."""
    named = any("names:" in files.head(name) for name in files.with_suffix(".yaml", ".yml"))
    return named or bool(looks_of(files).like("yolo", ".txt"))
