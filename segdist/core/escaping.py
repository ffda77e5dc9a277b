"""Names where not every character may stand: escaped so that no two become one, and back.

For classes and images as files, and for metrics, parameters and tags as keys of MLflow.

A character that may not stand is written as its UTF-8 bytes in hexadecimal, each behind a mark, as in URLs. The mark
itself stays where it could not be taken for an escape: `50% open` is `50% open`, `50%25` is `50%2525`.
"""

import hashlib
import re
import unicodedata
from dataclasses import dataclass

_DIGITS = 32
"""Hexadecimal digits of the SHA-256 that takes the place of the end of a name that is too long."""


@dataclass(frozen=True)
class Alphabet:
    """What may stand somewhere.

    Attributes:
        mark: begins an escape.
        foreign: matches each character that may not stand where it stands.
        longest: bytes of a name.
        composes: whether names that differ in Unicode's form alone (NFC, NFD) are one name there.
    """

    mark: str
    foreign: re.Pattern[str]
    longest: int
    composes: bool = False

    def escape(self, name: str) -> str:
        """The name as it may stand; different names stay different.

        One that would be too long keeps its beginning, then the mark, `-` and a digest of the whole.
        """
        found = re.sub(rf"{self.mark}(?=[0-9a-fA-F]{{2}}|-)|{self.foreign.pattern}", self._bytes, name)
        if self.composes and unicodedata.normalize("NFC", found) != found:
            found = re.sub(r"[^\x00-\x7f]", self._bytes, found)
        if not found:
            return f"{self.mark}-"
        encoded = found.encode()
        if len(encoded) <= self.longest:
            return found
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
        return f"{encoded[: self.longest - _DIGITS - 2].decode(errors='ignore')}{self.mark}-{digest}"

    def unescape(self, text: str) -> str:
        """The name that `escape` was given; one that was too long stays as it stands."""
        if text == f"{self.mark}-":
            return ""
        return re.sub(rf"(?:{self.mark}[0-9a-fA-F]{{2}})+", self._characters, text)

    def _bytes(self, match: re.Match[str]) -> str:
        return "".join(f"{self.mark}{byte:02x}" for byte in match[0].encode("utf-8", "surrogatepass"))

    def _characters(self, match: re.Match[str]) -> str:
        try:
            return bytes.fromhex(match[0].replace(self.mark, "")).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # not written by `escape`
            return match[0]


_DEVICES = r"\A[cpanl](?=(?:(?<=c)on|(?<=p)rn|(?<=a)ux|(?<=n)ul|(?<=c)om[0-9¹²³]|(?<=l)pt[0-9¹²³]) *(?:\.|\Z))"

FILES = Alphabet(
    mark="%",
    foreign=re.compile(rf'[\x00-\x1f\x7f-\x9f<>:"|?*\\/\ud800-\udfff]|\A[. ]|[. ]\Z|(?i:{_DEVICES})'),
    longest=200,
    composes=True,
)
"""One part of a path on any file system: no separator, nothing that Windows refuses (its devices, such as `CON`, and
dots and blanks at the end), no hidden file. The length leaves room for numbers and suffixes within 255 bytes."""

MLFLOW = Alphabet(mark=":", foreign=re.compile(r"[^/\w.\- :]|(?:\A|(?<=/))[./]|[/ ]\Z"), longest=250)
"""Keys of metrics, parameters and tags: letters, digits, `_ - . : /` and blanks, and a normal path: not `a//b`, `../a`
or `a/` (mlflow.utils.validation)."""
