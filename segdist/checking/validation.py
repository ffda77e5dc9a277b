"""Everything that can be known to be wrong with a data set before anybody learns from it, and what the data set is."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from segdist.core.errors import DataError, StorageError
from segdist.core.json_values import JsonDict
from segdist.core.plugins import DatasetFormat, Piece
from segdist.core.records import Finding, Sample, Severity
from segdist.core.text import counted
from segdist.datasets.checks import open_image
from segdist.datasets.near_duplicates import DEFAULT_BITS, ImageHash, look, near_pairs
from segdist.datasets.parallel import ordered_map
from segdist.datasets.rows import sample_digest
from segdist.datasets.shards import Manifest, SplitCounts, added_counts, content_hash, count_samples
from segdist.datasets.split import leaks, untrained
from segdist.reading.codes import CODES, finding
from segdist.reading.garbage_collection import gc_disabled
from segdist.reading.sources import HOW_TO_LEAVE_OUT, Faults

MOST_LISTED = 10_000
"""Findings of one code that are listed; the others are counted: a million missing images must not fill the memory."""
MOST_NEAR = 200
"""Pairs of near-duplicates over splits that are named one by one."""


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What is kept of a sample."""

    image_id: str
    split: str
    group: str
    digest: str
    sha256: bytes
    look: ImageHash | None


@dataclass
class Review:
    """What a data set is, and what is wrong with it.

    Attributes:
        format_name: the format it was read as.
        findings: what there is to say, errors first; of each code the first `MOST_LISTED`.
        classes: the class names found, in alphabetical order.
        splits: counts of each split.
        rows: one for each usable image.
        licences: that the source states.
        counts: how many findings there are of each severity and code, listed or not.
    """

    format_name: str
    findings: list[Finding] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    rows: list[SampleSummary] = field(default_factory=list)
    licences: tuple[str, ...] = ()
    counts: Counter[tuple[Severity, str]] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        first, self.findings = self.findings, []
        self.take(first)

    def take(self, findings: Iterable[Finding]) -> None:
        """Count findings, and list them where there are few of their kind."""
        for one in findings:
            key = (one.severity, one.code)
            if self.counts[key] < MOST_LISTED:
                self.findings.append(one)
            self.counts[key] += 1

    @property
    def images(self) -> int:
        """Usable images."""
        return sum(c.images for c in self.splits.values())

    @property
    def instances(self) -> int:
        """Usable instances."""
        return sum(c.instances for c in self.splits.values())

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(severity is Severity.ERROR for severity, _ in self.counts)

    def as_json(self) -> JsonDict:
        """What `segdist data validate --json` prints."""
        names = {Severity.ERROR: "errors", Severity.REPAIRED: "repaired"}
        names |= {Severity.SKIPPED: "skipped", Severity.WARNING: "warnings"}
        counts = {"format": self.format_name, "images": self.images, "instances": self.instances}
        listed = {k: [_entry(f) for f in self.findings if f.severity is s] for s, k in names.items()}
        here = Counter((f.severity, f.code) for f in self.findings)
        more = {code: n for (_, code), n in sorted((self.counts - here).items())}
        return {**counts, **listed, **({"not_listed": more} if more else {})}

    def manifest(self) -> Manifest:
        """The manifest of the data as they are, before they are merged or stored."""
        return Manifest(
            kind="dataset",
            classes=self.classes,
            splits=self.splits,
            shards=(),
            findings={
                str(s): {code: n for (own, code), n in sorted(self.counts.items()) if own is s}
                for s in sorted({severity for severity, _ in self.counts})
            },
            content_hash=content_hash("dataset", self.classes, (row.digest for row in self.rows)),
            licences=tuple(sorted(self.licences)),
            details={"source": self.format_name},
        )


def review(
    source: DatasetFormat,
    format_name: str,
    *,
    open_images: bool = True,
    strict: bool = False,
    near_bits: int = DEFAULT_BITS,
    noticed_before: Sequence[Finding] = (),
) -> Review:
    """Read a source from end to end and say everything that is wrong with it; never raises for the user's data.

    Args:
        source: what to read.
        format_name: how the report calls its format.
        open_images: also fetch and decode every image.
        strict: warnings count as errors.
        near_bits: bits in which perceptual hashes of near-duplicates may differ.
        noticed_before: what was noticed when the source was opened.
    """
    found = Review(format_name, [*noticed_before])
    try:
        _read(source, found, open_images=open_images)
        found.licences = source.licences()
    except (DataError, StorageError) as error:
        found.take([finding("source-unreadable", str(error), file=source.place)])
    found.take(untrained({name: counts.per_class for name, counts in found.splits.items()}, file=source.place))
    found.take(_leaks(found.rows, near_bits))
    if strict:
        _make_strict(found)
    found.findings.sort(key=_order)
    return found


@dataclass(frozen=True)
class _Work:
    source: DatasetFormat
    piece: Piece
    unusable: frozenset[str]
    wrong: frozenset[str]
    open_images: bool


@dataclass(frozen=True)
class _Answer:
    findings: list[Finding]
    rows: list[SampleSummary]
    splits: dict[str, SplitCounts]


def _read(source: DatasetFormat, found: Review, *, open_images: bool) -> None:
    unusable: set[str] = set()

    def report(one: Finding) -> None:
        found.take([one])
        if one.code == "image-missing":
            unusable.add(one.image)

    faults = Faults(report)

    def work(part: Piece) -> _Work:
        """With what is known of its own images: all that is known would be copied with every piece."""
        own = frozenset(part.image_ids)
        return _Work(source, part, own & unusable if open_images else frozenset(), own & faults.wrong, open_images)

    works = map(work, source.chunks(faults))
    labels: Counter[str] = Counter()
    for answer in ordered_map(_look_at, works):
        found.take(answer.findings)
        found.rows += answer.rows
        found.splits = added_counts([found.splits, answer.splits])
    for counts in found.splits.values():
        labels.update(counts.per_class)
    found.classes = tuple(sorted(labels))


def _look_at(work: _Work) -> _Answer:
    """Read one piece, and its images."""
    with gc_disabled():
        return _answer(work)


def _answer(work: _Work) -> _Answer:
    findings: list[Finding] = []
    rows: list[SampleSummary] = []
    kept: list[Sample] = []
    faults = Faults(findings.append, work.wrong)
    for sample in faults.usable(work.piece.samples(faults)):
        usable: Sample | None = sample
        sha256, seen = b"", None
        if work.open_images:
            usable, sha256, seen = (
                (None, b"", None) if sample.image_id in work.unusable else _opened(work, sample, findings)
            )
        if usable is not None:
            kept.append(usable)
            digest = sample_digest(usable, sha256.hex())
            rows.append(SampleSummary(usable.image_id, usable.split, usable.group, digest, sha256, seen))
    splits = {name: count_samples([s for s in kept if s.split == name]) for name in {s.split for s in kept}}
    return _Answer(findings, rows, splits)


def _opened(work: _Work, sample: Sample, findings: list[Finding]) -> tuple[Sample | None, bytes, ImageHash | None]:
    try:
        content = work.source.image_bytes(sample)
    except (StorageError, DataError) as error:
        findings.append(finding("image-unreadable", str(error), file=sample.image_uri, image=sample.image_id))
        return None, b"", None
    checked = open_image(sample, content)
    findings += checked.findings
    seen = look(checked.image_HWC) if checked.image_HWC is not None else None
    return checked.sample, hashlib.sha256(content).digest(), seen


def _leaks(rows: Sequence[SampleSummary], near_bits: int) -> Iterator[Finding]:
    """What images of several splits have in common."""
    if len({row.split for row in rows}) < 2:
        return
    places = {row.image_id: row.split for row in rows}
    hashes = {row.image_id: row.sha256.hex() for row in rows}
    yield from leaks(places, hashes, code="image-in-two-splits", what="identical images")
    groups = {row.image_id: row.group for row in rows}
    yield from leaks(places, groups, code="source-in-two-splits", what="copies of one source")
    yield from near_leaks([row for row in rows if row.look], near_bits)


def near_leaks(rows: Sequence[SampleSummary], near_bits: int) -> Iterator[Finding]:
    """Near-duplicates on different sides that are neither identical nor of one source: those have been named."""
    reported = 0
    for a, b in near_pairs([row.look for row in rows if row.look], bits=near_bits):
        one, other = rows[a], rows[b]
        if one.split != other.split and one.sha256 != other.sha256 and (one.group or "a") != (other.group or "b"):
            reported += 1
            if reported <= MOST_NEAR:
                message = f"looks like {other.image_id} in {other.split}"
                yield finding("near-duplicate-in-two-splits", message, image=one.image_id)
    if reported > MOST_NEAR:
        yield finding(
            "near-duplicate-in-two-splits",
            f"{counted(reported - MOST_NEAR, 'more pair looks', 'more pairs look')} alike",
        )


def _make_strict(found: Review) -> None:
    """Make errors of its warnings."""
    found.findings = [
        replace(one, severity=Severity.ERROR) if one.severity is Severity.WARNING else one for one in found.findings
    ]
    for (severity, code), number in [*found.counts.items()]:
        if severity is Severity.WARNING:
            del found.counts[severity, code]
            found.counts[Severity.ERROR, code] += number


_RANK: Mapping[Severity, int] = {s: n for n, s in enumerate(("error", "skipped", "repaired", "warning"))}  # type: ignore[misc]


def _order(one: Finding) -> tuple[int, str]:
    return _RANK[one.severity], one.code


def _entry(one: Finding) -> dict[str, str]:
    return {name: getattr(one, name) for name in ("code", "file", "image", "annotation", "message")}


def codes_text() -> str:
    """The table of all checks."""
    width = max(map(len, CODES))
    return "\n".join(f"{code:{width}}  {c.severity:8}  {c.meaning}" for code, c in CODES.items())


def _amounts(found: Review) -> str:
    return ", ".join(
        (
            counted(found.images, "image"),
            counted(found.instances, "instance"),
            counted(len(found.classes), "class"),
        )
    )


def summary_text(found: Review, *, most: int = 5) -> str:
    """What people read: counts by code, the first findings of each, and the balance."""
    lines = [f"{found.format_name or 'no format'}: {_amounts(found)}"]
    for name, counts in found.splits.items():
        lines.append(
            f"  {name or 'no split':9} {counted(counts.images, 'image')} ({counts.empty_images} without objects)"
        )
    by_code: dict[tuple[Severity, str], list[Finding]] = {}
    for one in found.findings:
        by_code.setdefault((one.severity, one.code), []).append(one)
    for (severity, code), members in by_code.items():
        number = found.counts[severity, code]
        lines.append(f"{severity}[{code}] x{number}: {CODES[code].meaning if code in CODES else ''}".rstrip(": "))
        lines += [f"    {_place(one)}{one.message}" for one in members[:most]]
        lines += [f"    ... and {number - most} more"] if number > most else []
    way_out = f", or leave them out: {HOW_TO_LEAVE_OUT}" if found.images else ""  # or else nothing would be left
    return "\n".join([*lines, "no error" if found.ok else f"errors: fix them{way_out}"])


def _place(one: Finding) -> str:
    where = [one.image or one.file, f"annotation {one.annotation}" if one.annotation else ""]
    return ", ".join(filter(None, where)) + ": " if any(where) else ""
