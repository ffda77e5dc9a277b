"""Class names as formats give them: one spelling each, and none that another format could not hold."""

from collections.abc import Mapping
from typing import Any

from segdist.data.codes import finding
from segdist.data.listing import Report
from segdist.records import Severity

RESERVED = ("<loc", "<seg", " ; ", "\n", "\x00")
"""What PaliGemma's answers are made of: a class name that holds it could not be read back."""


class ClassNames:
    """The spelling of each class that came first; other spellings and impossible names are reported once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._first: dict[str, str] = {}
        self._reported: set[str] = set()

    def __call__(self, name: str, file: str) -> str:
        """The label that a name stands for.

        Args:
            name: as it is written in the source.
            file: where, for the finding.
        """
        first = self._first.setdefault(" ".join(name.lower().split()), name.strip())
        if name != first and name not in self._reported:
            self._find(name, file, "class-name-spelling", Severity.REPAIRED, f"the class `{name}` is read as `{first}`")
        if (not name.strip() or any(part in name for part in RESERVED)) and name not in self._reported:
            message = f"the class name `{name}` must not be empty or hold any of {RESERVED[:3]}; rename it"
            self._find(name, file, "class-name-reserved", Severity.ERROR, message)
        return first

    def table(self, names: Mapping[Any, Any], file: str) -> dict[int, str]:
        """Labels by whole-number class id; an id that is none is reported."""
        found: dict[int, str] = {}
        for key, name in names.items():
            try:
                found[int(key)] = self(str(name), file)
            except (TypeError, ValueError):
                message = f"a class id must be a whole number, but is {key!r}"
                self._find(str(name), file, "class-id-invalid", Severity.ERROR, message)
        return found

    def _find(self, name: str, file: str, code: str, severity: Severity, message: str) -> None:
        self._reported.add(name)
        self._report(finding(code, message, file=file, severity=severity))
