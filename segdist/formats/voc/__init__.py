"""Pascal VOC: one XML file an image with its boxes, and mask images in SegmentationObject and SegmentationClass."""

from segdist.formats.voc.reader import Format, Options
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of

__all__ = ["Format", "Options", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is an XML file whose root is `annotation`."""
    return bool(looks_of(files).like("voc", ".xml"))
