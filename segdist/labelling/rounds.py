"""Self-training: what becomes of a label once a student that never saw it has looked into its box.

A student remembers what it has learned, noise included, so it is asked about the half of the images that it has not
learned (cross-fitting). How far it then draws what the label has is a score that the label's maker has no part in.
Whose pixels are right where they differ, no rule knows: of what students added, 0.85 were right in cracks of masonry
that the labels had missed, and 0.25 around potholes (`benchmarks/RESULTS.md`). So human masks decide that; without any
the label stays, unless the user knows better (Khoreva et al. 2017 likewise go back to the first label where a student's
mask does not fit its box).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from segdist.core import masks
from segdist.core.records import Evidence, Instance, Sample
from segdist.core.spec import StudentSpec
from segdist.labelling.consensus import CandidateMask
from segdist.labelling.election import Choice, elected

STUDENT, BOTH, COMMON = "student", "both together", "what both have"
"""What is called so beside `label_name`: the student's mask, every pixel of either, and those of both."""


def label_name(number: int) -> str:
    """What the labels are called that a round, counted from 1, begins with."""
    return "first labels" if number == 1 else f"round {number - 1}"


@dataclass(frozen=True)
class Done:
    """What a round has done.

    Attributes:
        taken: of how many objects the mask is whose.
        choices: of each class for which human masks decided, by these.
    """

    taken: Mapping[str, int]
    choices: Mapping[str, Choice]


@dataclass(frozen=True)
class Halves:
    """Two halves of a data set: images of a group are in the same one, so that no half shows what the other does.

    Attributes:
        boundary: of the digests of groups; those before it are the first half.
        by_image: each image is a group of its own, as where all are of one.
    """

    boundary: str
    by_image: bool

    def of(self, sample: Sample) -> int:
        """The half, 0 or 1, of any sample, of whatever split."""
        return int(_digest(sample, by_image=self.by_image) >= self.boundary)


def halves_of(samples: Iterable[Sample]) -> Halves | None:
    """Two halves of about as many of these samples; None where there are not two samples."""
    groups, images = Counter[str](), Counter[str]()
    for sample in samples:
        groups[_digest(sample, by_image=False)] += 1
        images[_digest(sample, by_image=True)] += 1
    counts = groups if len(groups) > 1 else images
    if len(counts) < 2:
        return None
    digests = sorted(counts)
    before = list(accumulate((counts[d] for d in digests), initial=0))
    cut = min(range(1, len(digests)), key=lambda n: abs(2 * before[n] - before[-1]))
    return Halves(digests[cut], by_image=counts is images)


def proposals(label: Instance, student: Instance, *, name: str) -> list[CandidateMask]:
    """What an object's mask may become: the label, the student's, every pixel of either, or those that both have.

    Args:
        label: the object with the mask it has.
        student: what the student drew in its box; its mask is None or empty where it saw nothing.
        name: of the label.
    """
    assert label.mask is not None
    size_hw = label.mask.size_hw
    drawn = student.mask or masks.empty(size_hw)
    both = replace(label, mask=masks.union([label.mask, drawn], size_hw=size_hw))
    common = replace(label, mask=masks.intersection(label.mask, drawn))
    instances = (label, replace(student, mask=drawn), both, common)
    return [CandidateMask(who, one) for who, one in zip((name, STUDENT, BOTH, COMMON), instances, strict=True)]


def relabelled(
    label: Instance, student: Instance, *, choice: Choice | None, name: str, options: StudentSpec
) -> CandidateMask:
    """The mask that an object has after a round, under the name of who drew it, with the score that it has then.

    Args:
        label: the object with the mask it has.
        student: what the student drew in its box.
        choice: by human masks, of the `proposals`; None goes by whether label and student agree.
        name: of the label.
        options: from which IoU on they agree, and what the mask becomes then.
    """
    candidates = proposals(label, student, name=name)
    own, drawn, both, common = candidates
    assert own.instance.mask is not None
    assert drawn.instance.mask is not None
    agreement = masks.iou(own.instance.mask, drawn.instance.mask) if drawn.instance.mask.area else 0.0
    if choice is None:
        becomes = {"label": own, "student": drawn, "both": both, "common": common}[options.where_agreed]
        taken = becomes if agreement >= options.agree_iou else own
    else:
        (taken,) = elected(label, candidates, choice)
        if taken.instance.mask is None or not taken.instance.mask.area:
            (taken,) = elected(label, candidates, replace(choice, teacher=name))
        if choice.foretells:
            return taken
    said = replace(taken.instance.evidence or Evidence(), agreement=agreement)
    return CandidateMask(taken.strategy, replace(taken.instance, score=agreement, evidence=said))


def is_relabelled(instance: Instance) -> bool:
    """Whether a round looks at an object: one with a mask that no person drew, neither waiting nor rejected."""
    return instance.mask is not None and instance.evidence is not None


def can_teach(sample: Sample) -> bool:
    """Whether a student learns anything from an image: some mask, or that nothing is there."""
    return not sample.instances or any(instance.mask is not None for instance in sample.instances)


def _digest(sample: Sample, *, by_image: bool) -> str:
    name = sample.image_id if by_image else sample.group or sample.image_id
    return hashlib.sha256(name.encode()).hexdigest()
