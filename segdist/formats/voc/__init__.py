"""Pascal VOC: one XML file an image with its boxes, and mask images in SegmentationObject and SegmentationClass."""

import re

from segdist.data.listing import Listing
from segdist.formats.voc.reader import Format, Options

__all__ = ["Format", "Options", "recognises"]
_ROOT = re.compile(r"^\ufeff?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<annotation[\s>]", re.DOTALL)


def recognises(files: Listing) -> bool:
    """Whether there is an XML file whose root is `annotation`."""
    return any(_ROOT.search(files.head(name)) for name in files.with_suffix(".xml")[:3])
