"""A data set in the terminal: what is in it, how it is divided, and what was found on the way."""

from collections.abc import Sequence

from segdist.core import storage
from segdist.core.text import counted
from segdist.datasets.shards import FINDINGS, Dataset, total_counts
from segdist.datasets.split import balance

EXAMPLES = 3


def dataset_text(dataset: Dataset) -> str:
    """Counts, the balance of the splits, and the findings by code with some examples."""
    manifest = dataset.manifest
    total = total_counts(manifest.splits.values())
    header, rows = balance(manifest.splits)
    lines = [
        (
            f"{counted(total.images, 'image')}, {counted(total.instances, 'instance')}, "
            f"{counted(len(manifest.classes), 'class')}, "
            f"in {counted(len(manifest.shards), 'shard')}"
        ),
        f"content hash {manifest.content_hash}; licences: {', '.join(manifest.licences) or 'none stated'}",
        *table([header, *rows]),
    ]
    by_code: dict[str, list[str]] = {}
    for one in dataset.findings():
        where = f"{one.image or one.file}: " if one.image or one.file else ""
        by_code.setdefault(f"{one.severity}[{one.code}]", []).append(where + one.message)
    for code, messages in by_code.items():
        lines += [f"{code} x{len(messages)}", *(f"    {text}" for text in messages[:EXAMPLES])]
    return "\n".join([*lines, f"written to {dataset.uri}"])


def dataset_line(dataset: Dataset) -> str:
    """Images of each split, classes and hash in a line; and how much was wrong and is not there, with where it is said.

    What was repaired is in the report alone.
    """
    manifest = dataset.manifest
    splits = ", ".join(f"{name} {counts.images}" for name, counts in manifest.splits.items())
    lost = [f"{code} {n}" for kind in ("error", "skipped") for code, n in manifest.findings.get(kind, {}).items()]
    left_out = f"; left out: {', '.join(lost)} ({storage.join(dataset.uri, FINDINGS)})" if lost else ""
    return f"data      images {splits}; classes {', '.join(manifest.classes)}; {manifest.content_hash}{left_out}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns below each other; the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
