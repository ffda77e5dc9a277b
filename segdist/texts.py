"""Bytes as text: the one place that knows encodings, byte order marks and line endings."""

import codecs
import re
from dataclasses import dataclass

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class NotTextError(ValueError):
    """Why bytes are no text; the message says what to do about it."""


@dataclass(frozen=True)
class Text:
    """What a file says.

    Attributes:
        content: without a byte order mark; line endings as they were.
        encoding: that it was read as.
    """

    content: str
    encoding: str

    @property
    def is_utf8(self) -> bool:
        """Whether it is written as everything should be."""
        return self.encoding == "utf-8"


def read(content: bytes) -> str:
    """The text of bytes that say how they are encoded: UTF-8, or UTF-16 and UTF-32 by their byte order mark.

    Raises:
        NotTextError: they are neither, or hold NUL.
    """
    encoding = _marked(content) or "utf-8"
    return _without_nul(_decoded(content, encoding))


def guess(content: bytes) -> Text:
    """The text of bytes from anywhere: as `read`, or else UTF-16 without a mark, or the old code page of Windows.

    Raises:
        NotTextError: they hold NUL as no text does, or break the encoding that their mark promises.
    """
    encoding = _marked(content)
    if not encoding and _utf16(content):
        encoding = _utf16(content)
    if encoding:
        return Text(_without_nul(_decoded(content, encoding)), encoding)
    for encoding in ("utf-8", "cp1252", "latin-1"):  # the last knows the five bytes that cp1252 leaves out
        try:
            return Text(_without_nul(content.decode(encoding)), encoding)
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 decodes every byte")


def lines(text: str) -> list[str]:
    """The lines of a text that ends them as Unix, Windows, old Macs or mainframes do.

    Unlike `str.splitlines`, a form feed or a group separator ends no line: names may hold them.
    """
    found = _LINE_END.split(text)
    return found[:-1] if found[-1] == "" else found


def _marked(content: bytes) -> str:
    return next((name for mark, name in _MARKS if content.startswith(mark)), "")


def _utf16(content: bytes) -> str:
    """UTF-16 without a mark, told by a first character of ASCII."""
    first = content[:2]
    if len(first) < 2 or (first[0] == 0) == (first[1] == 0):
        return ""
    return "utf-16-be" if first[0] == 0 else "utf-16-le"


def _decoded(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        found = content[error.start : error.start + 1].hex()
        raise NotTextError(
            f"it must be text in UTF-8, but byte {error.start} (0x{found}) is no {encoding}; save it as UTF-8"
        ) from None


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise NotTextError(
            f"it must be text, but holds NUL at character {text.index(chr(0))}; it is damaged or binary, write it anew"
        )
    return text
