"""Samples of several sources as one data set: identical images become one, near-duplicates share a group.

The rule for identical images (the same bytes): the first source's image stays. Of the others, an instance that is there
already (same class, IoU of 0.9 or more) is not repeated; one that lies on an instance of another class (IoU of 0.5 or
more) contradicts it, which is reported, and the first source's class stays; any other is added. Copies that come with
different splits are not merged but reported as a leak: whose split is right, only their owner knows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from segdist.core import masks
from segdist.core.records import Instance, ReportFinding, Sample
from segdist.core.text import counted
from segdist.datasets.near_duplicates import Groups, ImageHash, near_pairs
from segdist.reading.codes import finding
from segdist.reading.geometry import box_iou

SAME, CONFLICT = 0.9, 0.5
MOST_REPORTED = 200
Numbered = tuple[int, Sample]
"""A sample and the number of the source it came from."""


@dataclass(frozen=True)
class OpenedImage:
    """What is known of an image once it has been opened.

    Attributes:
        sha256: of its bytes, in hex.
        look: what it looks like.
        turned: whether the annotations must be turned upright with it.
    """

    sha256: str
    look: ImageHash
    turned: bool = False


def merged(
    pairs: Sequence[Numbered], seen: Mapping[str, OpenedImage], report: ReportFinding, *, near_bits: int
) -> list[Numbered]:
    """The samples without second copies, in groups that hold near-duplicates together.

    Args:
        pairs: samples of all sources, in the order of the sources.
        seen: by image id; a sample that is not there is left out (it could not be opened, which has been reported).
        report: takes what there is to say.
        near_bits: bits in which perceptual hashes of near-duplicates may differ.
    """
    usable = [pair for pair in pairs if pair[1].image_id in seen]
    by_hash = sorted(usable, key=lambda pair: (seen[pair[1].image_id].sha256, pair[1].split))  # sorting keeps the order
    kept: dict[str, Sample] = {}
    for _, copies in groupby(by_hash, key=lambda pair: seen[pair[1].image_id].sha256):
        for sample in _one_per_split([s for _, s in copies], report):
            kept[sample.image_id] = sample
    once = [(n, kept[s.image_id]) for n, s in usable if s.image_id in kept]
    return list(_grouped(once, seen, report, near_bits))


def _one_per_split(copies: Sequence[Sample], report: ReportFinding) -> Iterator[Sample]:
    """Copies of one image, merged where their splits do not differ."""
    splits = sorted({s.split for s in copies if s.split})
    if len(splits) < 2:
        yield replace(_united(copies, report), split=splits[0] if splits else "")
        return
    free = [s for s in copies if not s.split]
    for split in splits:
        members = [s for s in copies if s.split == split]
        yield _united([*members, *free] if split == splits[0] else members, report)


def _united(copies: Sequence[Sample], report: ReportFinding) -> Sample:
    first, *others = copies
    instances = list(first.instances)
    for other in others:
        added, conflicts = 0, []
        for instance in other.instances:
            near = [(_overlap(instance, i), i) for i in first.instances]
            if any(iou >= SAME and i.label == instance.label for iou, i in near):
                continue
            against = [i.label for iou, i in near if iou >= CONFLICT and i.label != instance.label]
            if against:
                conflicts.append(f"{against[0]} / {instance.label}")
                continue
            instances.append(instance)
            added += 1
        message = f"identical to {first.image_id}; kept once, {counted(added, 'instance')} added"
        report(finding("duplicate-merged", message, file=other.image_uri, image=other.image_id))
        if conflicts:
            message = f"identical to {first.image_id}, whose classes stay: {', '.join(conflicts[:6])}"
            report(finding("duplicate-conflict", message, file=other.image_uri, image=other.image_id))
    return replace(first, instances=tuple(instances)) if others else first


def _overlap(a: Instance, b: Instance) -> float:
    """IoU of the masks where both are known, otherwise of the boxes."""
    if a.mask is not None and b.mask is not None and a.mask.size_hw == b.mask.size_hw:
        return masks.iou(a.mask, b.mask) if box_iou(a.mask.box_xyxy, b.mask.box_xyxy) > 0 else 0.0
    return box_iou(a.box_xyxy, b.box_xyxy)


def _grouped(
    pairs: Sequence[Numbered], seen: Mapping[str, OpenedImage], report: ReportFinding, near_bits: int
) -> Iterator[Numbered]:
    """The samples with groups that unite what looks alike."""
    samples = [s for _, s in pairs]
    groups, reported = Groups(), 0
    for a, b in near_pairs([seen[s.image_id].look for s in samples], bits=near_bits):
        one, other = samples[a], samples[b]
        groups.join([_node(one), _node(other)])
        if _node(one) == _node(other) or seen[one.image_id].sha256 == seen[other.image_id].sha256:
            continue
        reported += 1
        if reported <= MOST_REPORTED:
            apart = bool(one.split and other.split and one.split != other.split)
            code = "near-duplicate-in-two-splits" if apart else "near-duplicates"
            where = f" in {other.split}" if apart else ""
            report(finding(code, f"looks like {other.image_id}{where}", file=one.image_uri, image=one.image_id))
    if reported > MOST_REPORTED:
        report(
            finding(
                "near-duplicates", f"{counted(reported - MOST_REPORTED, 'more pair looks', 'more pairs look')} alike"
            )
        )
    for number, sample in pairs:
        group = groups.of(_node(sample))
        yield number, sample if group == _node(sample) else replace(sample, group=group)


def _node(sample: Sample) -> str:
    return sample.group or sample.image_id
