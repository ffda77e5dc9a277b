"""Text files of other tools: read as UTF-8, or in the encoding that they are in, which is reported."""

import json
from collections.abc import Callable
from typing import Any

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


def read_json(uri: str, report: Callable[[Finding], None], *, image: str = "") -> Any:
    """The values of a JSON file, whatever its encoding; NaN and Infinity are left to the checks of what they stand for.

    Raises:
        ValueError: it is no JSON, or nested too deep; the message says what it must be.
        StorageError: it cannot be read.
    """
    return parse_json(read_text(uri, report, image=image))


def parse_json(text: str) -> Any:
    """The values of JSON text, as `read_json` gives them.

    Raises:
        ValueError: it is no JSON, or nested too deep; the message says what it must be.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it must be JSON, but is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"it must be JSON, but: {error}") from None
