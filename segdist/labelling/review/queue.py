"""Which labels are worth a look, the most rewarding first, and what of them annotation tools are given."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from segdist.core.records import Instance, Rle, Sample, Verdict
from segdist.labelling.tally import proposed


@dataclass(frozen=True)
class Doubt:
    """One label to look at.

    Attributes:
        number: its place in the queue, from 1 on; its name in all files.
        image_id: of its image.
        index: its place among the image's instances.
        instance: the label as it was made.
        gain: see `queue`.
    """

    number: int
    image_id: str
    index: int
    instance: Instance
    gain: float

    @property
    def mask(self) -> Rle | None:
        """The proposed mask, whatever became of it; None where the teacher found nothing."""
        return proposed(self.instance)

    @property
    def verdict(self) -> Verdict:
        """What became of it."""
        return self.instance.evidence.verdict if self.instance.evidence else Verdict.ACCEPT


@dataclass(frozen=True)
class Task:
    """One image of the queue with all its labels in doubt.

    Attributes:
        file_name: of the image in the exported folder.
        sample: with its size.
        doubts: in the order of the queue.
    """

    file_name: str
    sample: Sample
    doubts: tuple[Doubt, ...]


def queue(
    samples: Iterable[Sample],
    *,
    verdicts: Collection[Verdict],
    most: int,
    only: Collection[tuple[str, str]] | None = None,
) -> list[Doubt]:
    """Labels with one of the verdicts, those first whose correction promises to raise the mean IoU of classes most.

    A label of score s and a pixels is expected to be wrong in (1 - s) a of them. Put right, they raise its class's
    summed IoU by about that share of all the class's pixels. So the gain is (1 - s) a / A: large objects in doubt come
    before small ones, and those of rare classes before those of frequent ones.

    Args:
        samples: labels; those without evidence are people's and not looked at.
        verdicts: which to take.
        most: the length of the queue at most.
        only: image ids and classes to take; None for all.
    """
    pixels: Counter[str] = Counter()
    found: list[Doubt] = []
    for sample in samples:
        for index, instance in enumerate(sample.instances):
            area = _pixels(instance)
            pixels[instance.label] += area
            is_wanted = only is None or (sample.image_id, instance.label) in only
            if is_wanted and instance.evidence is not None and instance.evidence.verdict in verdicts:
                wrong = (1 - min(max(instance.score, 0.0), 1.0)) * area
                found.append(Doubt(0, sample.image_id, index, instance, wrong))
    shares = [(d.gain / max(pixels[d.instance.label], 1), d) for d in found]
    shares.sort(key=lambda pair: (-pair[0], pair[1].image_id, pair[1].index))
    return [
        Doubt(number, d.image_id, d.index, d.instance, gain) for number, (gain, d) in enumerate(shares[:most], start=1)
    ]


def by_image(doubts: Sequence[Doubt]) -> dict[str, tuple[Doubt, ...]]:
    """The doubts of each image, the image with the most rewarding one first."""
    found: dict[str, tuple[Doubt, ...]] = {}
    for doubt in doubts:
        found[doubt.image_id] = (*found.get(doubt.image_id, ()), doubt)
    return found


def _pixels(instance: Instance) -> int:
    """Of the proposed mask; of the box where there is none."""
    mask = proposed(instance)
    if mask is not None:
        return mask.area
    x1, y1, x2, y2 = instance.box_xyxy
    return round((x2 - x1) * (y2 - y1))
