"""Which masks people should correct first, so that few of them teach most: how many of each class, in which images."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segdist.core.records import Sample
from segdist.labelling.election import ENOUGH

TAUGHT = 20
"""Objects of a class with a human mask, beyond which more of them hardly change who labels it and what scores say."""
MOST_IMAGES = 8
"""That are named for a class."""
_AGAIN = 0.5
"""What a further image of a group is worth: it shows much of what the first one shows."""


@dataclass(frozen=True)
class Lesson:
    """What a person should correct of one class.

    Attributes:
        label: the class.
        known: its objects with a human mask in `train` and `val`.
        wanted: how many more would help.
        decides: whether they decide who labels the class; otherwise they make scores surer.
        images: where to correct them, the most rewarding first.
    """

    label: str
    known: int
    wanted: int
    decides: bool
    images: tuple[str, ...]


@dataclass(frozen=True)
class _Doubts:
    """Of one image: for each class how much is doubtful, as a number of objects, and how many objects there are."""

    image_id: str
    group: str
    doubt: dict[str, float]
    objects: Counter[str]


def lessons(samples: Iterable[Sample]) -> list[Lesson]:
    """For each class with too few human masks what to correct; the class with most in doubt first.

    Images are taken one after the other that have most objects in doubt (one less its score, each); further images of
    a group count half. The test split is nobody's teacher.

    Args:
        samples: labels, as they were made.
    """
    known: Counter[str] = Counter()
    total: Counter[str] = Counter()
    found: list[_Doubts] = []
    for sample in samples:
        if sample.split == "test":
            continue
        doubt: dict[str, float] = defaultdict(float)
        objects: Counter[str] = Counter()
        for instance in sample.instances:
            if instance.is_crowd:
                continue
            if instance.evidence is None:
                known[instance.label] += instance.mask is not None and instance.mask.area > 0
            else:
                doubt[instance.label] += 1 - min(max(instance.score, 0.0), 1.0)
                objects[instance.label] += 1
        total.update(objects)
        if objects:
            found.append(_Doubts(sample.image_id, sample.group or sample.image_id, dict(doubt), objects))
    open_ = [label for label in total if known[label] < TAUGHT]
    open_.sort(key=lambda label: (-sum(d.doubt.get(label, 0.0) for d in found), label))
    return [_lesson(label, known[label], total[label], found) for label in open_]


def _lesson(label: str, known: int, there: int, found: Sequence[_Doubts]) -> Lesson:
    decides = known < ENOUGH <= known + there
    wanted = min((ENOUGH if decides else TAUGHT) - known, there)
    left = [d for d in found if d.objects[label]]
    seen: Counter[str] = Counter()
    images: list[str] = []
    corrected = 0
    while left and corrected < wanted and len(images) < MOST_IMAGES:
        best = max(left, key=lambda d: (d.doubt[label] * _AGAIN ** seen[d.group], d.image_id))
        left.remove(best)
        seen[best.group] += 1
        images.append(best.image_id)
        corrected += best.objects[label]
    return Lesson(label, known, wanted, decides, tuple(images))
