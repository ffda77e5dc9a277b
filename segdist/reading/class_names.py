"""Class names as sources give them: one spelling each, and none that another format could not hold."""

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from segdist.core.records import ReportFinding, Severity
from segdist.core.text import short
from segdist.reading.codes import finding

RESERVED = ("<loc", "<seg", " ; ", "\n", "\x00")
"""What PaliGemma's answers are made of: a class name that holds it could not be read back."""


_UNSEEN = dict.fromkeys(map(ord, "\ufeff\u200b\u2060\u00ad"))
"""Marks of byte order, blanks of no width and soft hyphens: programs leave them in names, and nobody sees them."""


def compared(name: str) -> str:
    """A class name as it is compared: whatever its case, its blanks and the way its accents are written."""
    name = name.translate(_UNSEEN)
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).split())


class ClassNames:
    """The spelling of each class that came first; other spellings and impossible names are reported once.

    Args:
        report: takes the findings.
        known: spellings that come before all others.
    """

    def __init__(self, report: ReportFinding, known: Iterable[str] = ()) -> None:
        self._report = report
        self._first: dict[str, str] = {}
        self._reported: set[str] = set()
        for name in known:
            self._first.setdefault(compared(name), name)

    def __call__(self, name: str, file: str) -> str:
        """The label that a name stands for.

        Args:
            name: as it is written in the source.
            file: where, for the finding.
        """
        is_usable = compared(name) and not any(part in name for part in RESERVED)
        if not is_usable and name not in self._reported:
            message = f"the class name `{name}` must not be empty or hold any of {RESERVED[:3]}; rename it"
            self._find(name, file, "class-name-reserved", Severity.ERROR, message)
        return self.spelled(name, file)

    def spelled(self, name: str, file: str) -> str:
        """The same without a look at what the name holds, where a format has looked at it before."""
        composed = unicodedata.normalize("NFC", name)
        first = self._first.setdefault(compared(name), composed.translate(_UNSEEN).strip())
        if composed != first and name not in self._reported:
            self._find(name, file, "class-name-spelling", Severity.REPAIRED, f"the class `{name}` is read as `{first}`")
        return first

    def table(self, names: Mapping[Any, Any], file: str) -> dict[int, str]:
        """Labels by whole-number class id; an id that is none is reported."""
        found: dict[int, str] = {}
        for key, name in names.items():
            try:
                found[int(key)] = self(str(name), file)
            except (TypeError, ValueError):
                message = f"a class id must be a whole number, but is {short(key)}"
                self._find(str(name), file, "class-id-invalid", Severity.ERROR, message)
        return found

    def _find(self, name: str, file: str, code: str, severity: Severity, message: str) -> None:
        self._reported.add(name)
        self._report(finding(code, message, file=file, severity=severity))
