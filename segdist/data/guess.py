"""Which format a folder, file or archive is in, where that can be told."""

from segdist import registry, storage
from segdist.data.archives import is_archive, unpacked
from segdist.data.listing import Listing
from segdist.errors import DataError


def guess_format(place: str) -> str:
    """The one format that recognises a place; `images` where there are images and nothing else is recognised.

    Raises:
        DataError: there is nothing, or several formats fit: both stand in the message.
    """
    files = Listing(unpacked(place) if is_archive(place) else storage.absolute(place))
    if not files.entries:
        raise DataError(f"There are no files at {place}. Check the path.")
    fitting = [name for name in registry.names("formats") if _recognises(name, files)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(f"{place} could be read as {' or as '.join(fitting)}. Say which: --format {fitting[0]}.")
    if files.images:
        return "images"
    known = ", ".join(registry.names("formats"))
    raise DataError(f"{place} is in no format that is recognised, and holds no images. Name its --format: {known}.")


def _recognises(name: str, files: Listing) -> bool:
    recognises = getattr(registry.load("formats", name), "recognises", None)
    return bool(recognises and recognises(files))
