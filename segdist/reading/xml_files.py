"""XML of other tools as elements; nothing in it is trusted, and its encoding is the one that it is really in.

Without entities, which expand to gigabytes and reach other files; and of bounded size.
"""

import re
from xml.etree.ElementTree import Element

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from segdist.core import storage
from segdist.core.records import ReportFinding
from segdist.reading.text_files import text_of

_DECLARED = re.compile(rb"<\?xml[^>]{0,200}encoding\s*=\s*[\"']([A-Za-z][\w.\-]*)[\"']")
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949", "iso-8859-1": "cp1252"}
"""What programs write under the name of an encoding, as browsers take it (encoding.spec.whatwg.org)."""


MOST_BYTES = 1 << 28
"""Of a file."""
MOST_TAGS = 2_000_000
"""Opening and closing ones; each takes some microseconds and hundreds of bytes."""


class NotXmlError(ValueError):
    """Why a file cannot be read; becomes a finding."""


def read_xml(uri: str, report: ReportFinding, *, image: str = "") -> Element:
    """The root element of a file: in the encoding that it declares, whatever it is, or else as `text_files` reads it.

    Args:
        uri: of the file.
        report: takes a finding where the encoding was repaired.
        image: that the file is about, if it is about one.

    Raises:
        NotXmlError: it is no XML, defines entities, which no annotation needs, or is larger than any annotations are.
        StorageError: it cannot be read.
    """
    content = storage.read_head(uri, MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise NotXmlError(f"it must be at most {MOST_BYTES:,} bytes, but is larger")
    if (tags := content.count(b"<")) > MOST_TAGS:
        raise NotXmlError(f"it must have at most {MOST_TAGS:,} tags, but has {tags:,}")
    try:
        return fromstring(_text(content, uri, report, image).lstrip())
    except DefusedXmlException as error:
        raise NotXmlError(f"it defines or uses entities ({type(error).__name__}), which are refused") from error
    except (ParseError, ValueError) as error:
        raise NotXmlError(f"it is no XML: {error}") from error


def _text(content: bytes, uri: str, report: ReportFinding, image: str) -> str:
    declared = _DECLARED.search(content[:600].replace(b"\0", b""))  # without the zeros of UTF-16
    if declared:
        name = declared[1].decode().lower()
        try:
            return content.decode(_SUPERSETS.get(name, name)).removeprefix("\ufeff")
        except (UnicodeDecodeError, LookupError):
            pass  # it is in another one, or there is no such encoding
    return text_of(content, uri, report, image=image)
