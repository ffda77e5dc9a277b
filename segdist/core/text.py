"""Text files from outside, whatever editor wrote them: the one place that knows encodings, marks and line endings."""

import codecs
import re
import reprlib
from dataclasses import dataclass

from segdist.core.errors import DataError, SegdistError

_BY_MARK = (  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


_SHORT = 60
_ENDS_WITH_A_HISS = ("s", "x", "ch", "sh")


class NotTextError(ValueError):
    """Why bytes are no text in any encoding."""


@dataclass(frozen=True)
class Text:
    """What a file of another tool says.

    Attributes:
        content: without a byte order mark; line endings as they were.
        encoding: that it was read as.
    """

    content: str
    encoding: str

    @property
    def is_utf8(self) -> bool:
        """Whether it is written as everything should be."""
        return self.encoding.startswith("utf-8")


def decode_text(content: bytes, place: str, *, error: type[SegdistError] = DataError) -> str:
    """UTF-8 with or without a byte order mark, UTF-16 and UTF-32 by theirs; the mark is no part of the text.

    Args:
        content: the file.
        place: what errors call it.
        error: what is raised.

    Raises:
        error: it is in another encoding, or no text; with the line, and how to convert it.
    """
    encoding = _marked(content) or "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as wrong:
        line = content.count(b"\n", 0, wrong.start) + 1
        raise error(
            f"{place}:{line}: text must be {encoding.removesuffix('-sig').upper()}, but byte {wrong.start} is "
            f"0x{content[wrong.start]:02x}. If another program wrote it, convert it, e.g. "
            f"`iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`."
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error(f"{place}:{line}: a text file must not hold NUL characters, but does. Is it a text file at all?")
    return text


def guess_text(content: bytes) -> Text:
    """The text of another tool's file: as `decode_text`, or UTF-16 without a mark, or the old code page of Windows.

    Raises:
        NotTextError: it holds NUL as no text does, or breaks the encoding that its mark promises.
    """
    marked = _marked(content) or _unmarked_utf16(content)
    for encoding in (marked,) if marked else ("utf-8", "cp1252", "latin-1"):  # the last knows every byte
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            problem = f"it must be text, but byte {error.start} is no {encoding.upper()}"
            continue
        if "\0" not in text:
            return Text(text, encoding)
        problem = f"it must be text, but character {text.index(chr(0))} is NUL"
    raise NotTextError(f"{problem}; it is damaged, or no text at all")


def decode_head(content: bytes) -> str:
    """The beginning of a file that may be text, for a look at what it is; what cannot be decoded is replaced."""
    return content.decode(_marked(content) or _unmarked_utf16(content) or "utf-8", errors="replace")


def lines(text: str) -> list[str]:
    """The lines of a text that ends them as Unix, Windows, old Macs or mainframes do.

    Unlike `str.splitlines`, a form feed or a group separator ends no line: names may hold them.
    """
    found = _LINE_END.split(text)
    return found[:-1] if found[-1] == "" else found


def short(value: object) -> str:
    """A value as a message shows it: what is long or deep ends in dots, without being written out before."""
    text = reprlib.repr(value)
    return text if len(text) <= _SHORT else text[: _SHORT - 3] + "..."


def minutes(seconds: float) -> str:
    """A duration in minutes and seconds, e.g. 83:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def counted(amount: float, one: str, many: str = "") -> str:
    """An amount with what it counts, as people read it: "1 box", "2,000 boxes", "1 image is".

    Args:
        amount: how many.
        one: what is counted, as one of it is called, with its verb where the sentence needs one.
        many: the same of several; without it the last word gets its ending.
    """
    if amount == 1:
        return f"1 {one}"
    written = f"{amount:,}" if isinstance(amount, int) else f"{amount:g}"
    return f"{written} {many or one + ('es' if one.endswith(_ENDS_WITH_A_HISS) and not one.endswith('epoch') else 's')}"


def json_lines(text: str) -> list[str]:
    """The lines of JSON lines: other ends than these may stand inside a value."""
    return re.split("\r\n|[\n\r]", text)


def _marked(content: bytes) -> str:
    return next((name for mark, name in _BY_MARK if content.startswith(mark)), "")


def _unmarked_utf16(content: bytes) -> str:
    """UTF-16 without a mark, recognised by a first character of ASCII; "" where it is not."""
    first = content[:2]
    if len(first) < 2 or (first[0] == 0) == (first[1] == 0):
        return ""
    return "utf-16-be" if first[0] == 0 else "utf-16-le"
