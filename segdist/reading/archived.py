"""A source inside an archive: any format's reader, over the folder that the archive unpacks to."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from segdist.core import storage
from segdist.core.plugins import DatasetFormat, dataset_format
from segdist.core.records import ReportFinding, Sample
from segdist.core.spec import Strict, digest
from segdist.reading.archives import INSIDE, entry, is_archive, split_place, unpacked
from segdist.reading.listing import FolderOptions


def open_format(name: str, options: Mapping[str, object]) -> DatasetFormat:
    """The reader of a format, also where an option names an archive or a place in one (`photos.zip!/train`).

    Raises:
        SpecError: there is no such format.
        ValidationError: its options are wrong.
    """
    module = dataset_format(name)
    checked = module.Options.model_validate(dict(options))
    packed = {key: value for key, value in checked if isinstance(value, str) and is_archive(value)}
    return Archived(name, checked, packed) if packed else module.Format(checked)


class Archived(DatasetFormat):
    """Reads as the format does; images go by `archive!/path`, which every node can read that can read the archive."""

    def __init__(self, name: str, options: Strict, packed: Mapping[str, str]) -> None:
        super().__init__(options)
        self._name = name
        self._packed = {
            key: INSIDE.join(filter(None, (storage.absolute(archive), inside)))
            for key, place in packed.items()
            for archive, inside in [split_place(place)]
        }
        self._inner: DatasetFormat | None = None
        self._roots: dict[str, str] = {}

    @property
    def place(self) -> str:
        """The archive, or the place in it."""
        return self.options.path if isinstance(self.options, FolderOptions) else ""

    def signature(self) -> str:
        """Changes with the options and with the archive's size or time; nothing is unpacked for it."""
        entries = [entry(place) for place in self._packed.values()]
        return digest([self.options.model_dump(mode="json"), [(e.uri, e.size, e.stamp) for e in entries]])

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every image with its annotations; findings name files by their place in the archive."""
        inner = self._opened()
        for sample in inner.read(lambda f: report(replace(f, file=self._outside(f.file)))):
            yield replace(sample, image_uri=self._outside(sample.image_uri))

    def image_bytes(self, sample: Sample) -> bytes:
        """The encoded image; the archive is unpacked first where this node has not done it yet."""
        inner = self._opened()
        return inner.image_bytes(replace(sample, image_uri=self._inside(sample.image_uri)))

    def licences(self) -> tuple[str, ...]:
        """What the files inside state; known once they have been read."""
        return self._opened().licences()

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in the source's own order; empty where it has none."""
        return self._opened().classes

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_inner": None, "_roots": {}}  # another node unpacks to a folder of its own

    def _opened(self) -> DatasetFormat:
        if self._inner is None:
            local = {key: unpacked(place) for key, place in self._packed.items()}
            archives = {split_place(place)[0] for place in self._packed.values()}
            self._roots = {archive: unpacked(archive) for archive in archives}
            self._inner = dataset_format(self._name).Format(self.options.model_copy(update=local))
        assert self._inner is not None
        return self._inner

    def _outside(self, place: str) -> str:
        for archive, root in self._roots.items():
            if place == root or place.startswith(f"{root}/"):
                rest = place.removeprefix(root).removeprefix("/")
                return f"{archive}{INSIDE}{rest}" if rest else archive
        return place

    def _inside(self, place: str) -> str:
        archive, inside = split_place(place)
        return storage.join(self._roots[archive], inside) if inside and archive in self._roots else place
