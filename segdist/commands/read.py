"""Annotated images wherever they lie: in Python, `segdist.read_dataset`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

from segdist.converting.convert import checked_options
from segdist.core.bounded_yaml import read_yaml
from segdist.core.errors import DataError, SpecError, did_you_mean
from segdist.core.plugins import DatasetFormat, ImageHWC, dataset_format
from segdist.core.records import Finding, LabelledImage, Sample
from segdist.core.storage import cache_dir
from segdist.core.text import counted
from segdist.datasets.build import on_all_cores
from segdist.datasets.ingest import find_or_build
from segdist.reading.examples import decode_image
from segdist.reading.sources import read_place
from segdist.sweepfile.loading import load


class Read(Sequence[LabelledImage]):
    """Images with their truth; each is read when it is asked for."""

    def __init__(self, found: Sequence[tuple[DatasetFormat, Sample]]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, index: int) -> LabelledImage: ...

    @overload
    def __getitem__(self, index: slice) -> list[LabelledImage]: ...

    def __getitem__(self, index: int | slice) -> LabelledImage | list[LabelledImage]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        source, sample = self._found[index]
        return sample, source.image_bytes(sample)


class AnnotatedImages(Sequence[tuple[Sample, ImageHWC]]):
    """Images with what is annotated in them: `(sample, RGB pixels)`, each read when it is asked for.

    Attributes:
        samples: what is known of each image, in the same order; no image is read for it.
        classes: the names of the classes.
        findings: what was noticed while the annotations were read.
    """

    def __init__(
        self, parts: Sequence[Sequence[LabelledImage]], samples: Sequence[Sample], findings: Sequence[Finding]
    ) -> None:
        self._place = [(rows, number) for rows in parts for number in range(len(rows))]
        self.samples, self.findings = tuple(samples), tuple(findings)
        self.classes = tuple(sorted({i.label for sample in samples for i in sample.instances}))

    def __len__(self) -> int:
        return len(self._place)

    @overload
    def __getitem__(self, index: int) -> tuple[Sample, ImageHWC]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[Sample, ImageHWC]]: ...

    def __getitem__(self, index: int | slice) -> tuple[Sample, ImageHWC] | list[tuple[Sample, ImageHWC]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        rows, number = self._place[index]
        sample, content = rows[number]
        return sample, decode_image(content, name=sample.image_id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({counted(len(self), 'image')}; classes {', '.join(self.classes) or 'none'})"


def read_dataset(
    path: str | os.PathLike[str],
    *,
    split: str = "",
    format_name: str = "",
    options: Mapping[str, object] | None = None,
    skip_errors: bool = False,
) -> AnnotatedImages:
    """Annotated images in any format that segdist reads, as a sequence of `(sample, pixels)`.

    Args:
        path: a folder, file or archive, here or at `s3://`, a data set of segdist, or a sweep file, which gives the
            images that its trials learn from.
        split: "train", "val" or "test"; "" for everything.
        format_name: of a folder that shows several formats, which one to read; "" for the one that is recognised.
        options: of the format, e.g. `{"first_pixel": 0}`.
        skip_errors: leave out what is wrong instead of stopping; it stands in `findings`.

    Raises:
        DataError: there is nothing that can be read, an annotation is wrong, or there is no such split.
        SpecError: there is no such format or option, or the sweep file is wrong.
    """
    place = os.fspath(path)
    if is_sweep_file(place):
        dataset = find_or_build(load(place), on_all_cores)
        check_split(place, split, set(dataset.manifest.splits))
        names = [name for name in dataset.manifest.splits if split in ("", name)]
        kept = [sample for name in names for sample in dataset.samples(name)]
        return AnnotatedImages([dataset.reader(name, cache_dir()) for name in names], kept, dataset.findings())
    if format_name:
        keys = dataset_format(format_name).Options
        checked_options(keys, {**(options or {}), "path": place}, what=f"reading {format_name}")
    elif options:
        raise SpecError("`options` belong to a format: name it, e.g. format_name='coco'.")
    findings: list[Finding] = []
    read = read_place(place, format_name=format_name, options=options, findings=findings, skip_errors=skip_errors)
    check_split(place, split, {sample.split for _, sample in read} - {""})
    chosen = [(source, sample) for source, sample in read if split in ("", sample.split)]
    return AnnotatedImages([Read(chosen)], [sample for _, sample in chosen], findings)


def is_sweep_file(place: str) -> bool:
    """Whether a YAML file is a sweep; data sets have YAML files of their own."""
    if not place.endswith((".yaml", ".yml")) or not Path(place).is_file():
        return False
    content = read_yaml(place, error=SpecError)
    return isinstance(content, dict) and {"data", "name"} <= content.keys()


def check_split(place: str, wanted: str, there: set[str]) -> None:
    """Raises DataError where the split that is wanted is not among those that are there; "" is no wish."""
    if wanted and wanted not in there:
        known = did_you_mean(wanted, sorted(there)) if there else "They are not divided: name no split."
        raise DataError(f"{place} has no split `{wanted}`. {known}")
