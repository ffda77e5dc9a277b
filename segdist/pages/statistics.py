"""The statistics of a data set as a page."""

from segdist.checking.histograms import Histogram
from segdist.checking.stats import Statistics
from segdist.core.text import counted
from segdist.datasets.split import balance
from segdist.pages.base import Column, Section, write_page


def write_stats_page(uri: str, found: Statistics, *, title: str) -> None:
    """Write the page: what is in the data set, and how it is divided."""
    header, rows = balance(found.splits)
    per_class = found.per_class
    most = max(per_class.values(), default=1)
    sections = [
        Section("Classes", bars=[(name, f"{n:,}", n / most) for name, n in per_class.items()]),
        Section("Balance of the splits", header=header, rows=rows, note="Share of all images, of each class and size."),
        *(_columns(histogram, list(found.splits)) for histogram in found.histograms.values() if histogram.counts),
    ]
    if found.findings:
        unopened = [(str(one),) for one in found.findings[:50]]
        sections.append(
            Section(
                f"{counted(len(found.findings), 'image was', 'images were')} not opened", header=("why",), rows=unopened
            )
        )
    note = (
        f"{counted(found.images, 'image')}, {counted(found.instances, 'instance')}, {counted(len(per_class), 'class')}."
    )
    write_page(uri, title, sections, note=note, series=[name or "no split" for name in found.splits], pairs=True)


def _columns(histogram: Histogram, splits: list[str]) -> Section:
    """Stacked columns, one part a split."""
    most = max(histogram.totals(), default=0) or 1
    by_split = [histogram.column(name) for name in splits]
    columns = [
        Column(label, sum(counts), tuple((k, count / most) for k, count in enumerate(counts) if count))
        for label, *counts in zip(histogram.scale.labels, *by_split, strict=True)
    ]
    return Section(histogram.scale.title, note=histogram.scale.unit, columns=columns)
