"""Text files of other tools: read as UTF-8, or in the encoding that they are in, which is reported."""

from typing import Any

from segdist.core import storage
from segdist.core.bounded_json import parse_json
from segdist.core.records import ReportFinding
from segdist.core.text import NotTextError, guess_text
from segdist.reading.codes import finding

MOST_BYTES = 1 << 28
"""Of a file."""


def read_text(uri: str, report: ReportFinding, *, image: str = "") -> str:
    """The text of a file; another encoding than UTF-8 is repaired.

    Args:
        uri: of the file.
        report: takes what is found.
        image: that the file is about, if it is about one.

    Raises:
        NotTextError: it is no text in any encoding, or larger than any labels are.
        StorageError: it cannot be read.
    """
    content = storage.read_head(uri, MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise NotTextError(f"it must be at most {MOST_BYTES:,} bytes, but is larger; split it")
    return text_of(content, uri, report, image=image)


def text_of(content: bytes, uri: str, report: ReportFinding, *, image: str = "") -> str:
    """The text of a file's bytes, as `read_text` gives it.

    Raises:
        NotTextError: it is no text in any encoding.
    """
    text = guess_text(content)
    if not text.is_utf8:
        message = f"the file is not UTF-8; it was read as {text.encoding}: check names with accents"
        report(finding("encoding-repaired", message, file=uri, image=image))
    return text.content


def read_json(uri: str, report: ReportFinding, *, image: str = "") -> Any:
    """The values of a JSON file, whatever its encoding; NaN and Infinity are left to the checks of what they stand for.

    Raises:
        ValueError: it is no JSON, or larger or deeper than any annotations are; the message says what it must be.
        StorageError: it cannot be read.
    """
    return parse_json(read_text(uri, report, image=image))
