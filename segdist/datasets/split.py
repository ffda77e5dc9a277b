"""Train, validation and test: reproducible from a seed, groups whole, classes spread, given splits kept."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from segdist.core.records import Finding, Sample
from segdist.core.spec import SplitSpec
from segdist.core.text import counted
from segdist.datasets.shards import SplitCounts
from segdist.datasets.sizes import SIZES, size_name
from segdist.reading.codes import finding

NAMES = ("train", "val", "test")


@dataclass
class _Target:
    """One split being filled: how much it should get of each class, and what it has."""

    share: float
    has: Counter[str] = field(default_factory=Counter)


def split(samples: Sequence[Sample], spec: SplitSpec) -> dict[str, str]:
    """The split of each sample by image id.

    Samples that come with a split keep it, unless `given: redo` says otherwise. If every sample has one and none is
    "val", the validation share is taken from the training samples, because trials must be compared on something. The
    others are divided by group, the rarest first of what their images show (a class, a class in a size), each group
    going to the split that lacks that most (the iterative stratification of Sechidis et al. 2011, over groups). The
    result depends on ids and seed, not on the order of the samples.
    """
    if spec.given == "redo":
        samples = [replace(s, split="") for s in samples]
    given = {s.image_id: s.split for s in samples if s.split}
    free = [s for s in samples if not s.split]
    shares = {"val": spec.val, "test": spec.test}
    if not free and "val" not in given.values() and spec.val > 0:
        free = [s for s in samples if s.split == "train"]
        shares = {"val": spec.val, "test": 0.0}
    return {**given, **_divide(free, {"train": 1 - sum(shares.values()), **shares}, spec.seed)}


def leaks(places: Mapping[str, str], keys: Mapping[str, str], *, code: str, what: str) -> list[Finding]:
    """A warning for each key (content hash, source name) that images of several splits share.

    Args:
        places: split by image id.
        keys: what images may have in common, by image id; "" for nothing.
        code: of the finding.
        what: how the message calls it.
    """
    by_key: dict[str, list[str]] = {}
    for image_id, key in keys.items():
        if key:
            by_key.setdefault(key, []).append(image_id)
    return [
        finding(
            code,
            f"{what} in the splits {', '.join(sorted({places[i] for i in ids}))}: {', '.join(sorted(ids)[:4])}",
            image=sorted(ids)[0],
        )
        for ids in by_key.values()
        if len({places[i] for i in ids}) > 1
    ]


def balance(splits: Mapping[str, SplitCounts]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: what share of the images, of each class and of each size each split has."""
    total = {name: Counter[str]() for name in ("images", "per_class", "per_size")}
    for counts in splits.values():
        total["images"]["images"] += counts.images
        total["per_class"].update(counts.per_class)
        total["per_size"].update(counts.per_size)
    rows = [["images", *(_share(c.images, total["images"]["images"]) for c in splits.values())]]
    rows += [
        [label, *(_share(c.per_class.get(label, 0), n) for c in splits.values())]
        for label, n in sorted(total["per_class"].items())
    ]
    rows += [
        [size, *(_share(c.per_size.get(size, 0), total["per_size"][size]) for c in splits.values())]
        for size in SIZES
        if total["per_size"][size]
    ]
    return ["", *(name or "no split" for name in splits)], rows


def untrained(per_class: Mapping[str, Mapping[str, int]], *, file: str = "") -> Iterator[Finding]:
    """The classes that only other splits than train show; a train without any instance is reported elsewhere.

    Args:
        per_class: instances of each class in each split.
        file: where they are read from.
    """
    if not any(per_class.get("train", {}).values()):
        return
    for name in sorted({name for counts in per_class.values() for name in counts}):
        there = [split for split, counts in per_class.items() if counts.get(name)]
        if there and "train" not in there:
            amount = sum(per_class[split][name] for split in there)
            message = (
                f"of `{name}` there is nothing in train, but {counted(amount, 'instance')} in "
                f"{' and '.join(there)}: no model can learn it"
            )
            yield finding("class-untrained", f"{message}; move some to train, or leave the class out", file=file)


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.0f} %)" if whole else "0"


def _divide(samples: Sequence[Sample], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    groups: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: s.image_id):
        groups.setdefault(sample.group or sample.image_id, []).append(sample)
    contents = {name: _content(members) for name, members in groups.items()}
    total: Counter[str] = sum(contents.values(), Counter())
    order = [sorted(groups)[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    order.sort(key=lambda name: _rarest(contents[name], total))
    targets = {name: _Target(share) for name, share in shares.items() if share > 0}
    found: dict[str, str] = {}
    for group in order:
        rarest = _rarest(contents[group], total)[1]
        chosen = max(targets, key=lambda name: _shortage(targets[name], rarest, total))
        targets[chosen].has.update(contents[group])
        found.update({s.image_id: chosen for s in groups[group]})
    return found


def _content(members: Sequence[Sample]) -> Counter[str]:
    """Images of each class, and of each class in each size; every image also counts as an image."""
    labels = Counter(label for s in members for label in _shown(s))
    return labels + Counter({"": len(members)})


def _shown(sample: Sample) -> set[str]:
    kinds = {(i.label, size_name(i)) for i in sample.instances}
    return {label for label, _ in kinds} | {f"{label}, {size}" for label, size in kinds} or {"no object"}


def _rarest(content: Counter[str], total: Counter[str]) -> tuple[int, str]:
    return min((total[label], label) for label in content if label)


def _shortage(target: _Target, label: str, total: Counter[str]) -> tuple[float, float]:
    """How many images of the class, and images at all, the split still lacks."""
    return target.share * total[label] - target.has[label], target.share * total[""] - target.has[""]
