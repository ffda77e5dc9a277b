"""Findings counted, for a summary."""

from segdist.core.records import Finding, Severity

SHOWN = 5
"""Findings of one kind that a summary quotes."""


class FindingTally:
    """Counts findings by severity and code and keeps the first of each kind: flat memory for millions of them."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Severity, str], int] = {}
        self._first: dict[tuple[Severity, str], list[Finding]] = {}

    def __call__(self, finding: Finding) -> None:
        """Take note of a finding."""
        key = (finding.severity, finding.code)
        self._counts[key] = self._counts.get(key, 0) + 1
        kept = self._first.setdefault(key, [])
        if len(kept) < SHOWN:
            kept.append(finding)

    def of(self, *severities: Severity) -> int:
        """How many findings there are of these severities."""
        return sum(count for (severity, _), count in self._counts.items() if severity in severities)

    def first(self, severity: Severity) -> list[Finding]:
        """The first findings of each code of a severity."""
        return [f for (found, _), kept in sorted(self._first.items()) if found is severity for f in kept]

    def as_json(self) -> list[dict[str, object]]:
        """One entry a kind: severity, code, count, and examples."""
        return [
            {
                "code": code,
                "severity": str(severity),
                "count": count,
                "examples": [
                    {"image": f.image, "annotation": f.annotation, "file": f.file, "message": f.message}
                    for f in self._first[severity, code]
                ],
            }
            for (severity, code), count in sorted(self._counts.items(), key=lambda item: (item[0][1], item[0][0]))
        ]
