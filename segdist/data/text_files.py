"""Text files of other tools: read as UTF-8, or in the encoding that they are in, which is reported."""

from collections.abc import Callable

from segdist import storage
from segdist.data.codes import finding
from segdist.records import Finding
from segdist.text import guess_text


def read_text(uri: str, report: Callable[[Finding], None], *, image: str = "") -> str:
    """The text of a file; another encoding than UTF-8 is repaired.

    Args:
        uri: of the file.
        report: takes what is found.
        image: that the file is about, if it is about one.

    Raises:
        NotTextError: it is no text in any encoding.
        StorageError: it cannot be read.
    """
    return text_of(storage.read_bytes(uri), uri, report, image=image)


def text_of(content: bytes, uri: str, report: Callable[[Finding], None], *, image: str = "") -> str:
    """The text of a file's bytes, as `read_text` gives it.

    Raises:
        NotTextError: it is no text in any encoding.
    """
    text = guess_text(content)
    if not text.is_utf8:
        message = f"the file is not UTF-8; it was read as {text.encoding}: check names with accents"
        report(finding("encoding-repaired", message, file=uri, image=image))
    return text.content
