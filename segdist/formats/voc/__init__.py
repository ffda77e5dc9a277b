"""Pascal VOC: one XML file an image with its boxes, and mask images in SegmentationObject and SegmentationClass."""

from segdist.data.listing import Listing
from segdist.data.looks import looks_of
from segdist.formats.voc.reader import Format, Options

__all__ = ["Format", "Options", "recognises"]


def recognises(files: Listing) -> bool:
    """Whether there is an XML file whose root is `annotation`."""
    return bool(looks_of(files).like("voc", ".xml"))
