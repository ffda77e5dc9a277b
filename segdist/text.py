"""Text files from outside, whatever editor wrote them."""

import codecs

from segdist.errors import DataError, SegdistError

_BY_MARK = (  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_text(content: bytes, place: str, *, error: type[SegdistError] = DataError) -> str:
    """UTF-8 with or without a byte order mark, UTF-16 and UTF-32 by theirs; the mark is no part of the text.

    Args:
        content: the file.
        place: what errors call it.
        error: what is raised.

    Raises:
        error: it is in another encoding, or no text; with the line, and how to convert it.
    """
    encoding = next((name for mark, name in _BY_MARK if content.startswith(mark)), "utf-8")
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
