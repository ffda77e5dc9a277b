"""Reading a source to the end, with everything that it reports."""

from segdist.core.plugins import DatasetFormat
from segdist.core.records import Finding, Sample


def read_all(source: DatasetFormat) -> tuple[list[Sample], list[Finding]]:
    """The samples and the findings of a source."""
    findings: list[Finding] = []
    samples = list(source.read(findings.append))
    return samples, findings
