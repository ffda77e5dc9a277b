"""What people decided about labels: it wins over every teacher, and every policy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from segdist.core import masks, storage
from segdist.core.bounded_json import read_json
from segdist.core.errors import DataError
from segdist.core.records import Rle, Sample
from segdist.core.spec import digest


@dataclass(frozen=True)
class Corrections:
    """Masks that people drew or confirmed, by image id and place among the image's instances.

    Attributes:
        of_image: for each image the corrected masks by index; None where a person found no object in the box:
            an empty mask teaches that, where a box without a mask would be ignored.
        uri: the file that holds them.
    """

    of_image: Mapping[str, Mapping[int, Rle | None]]
    uri: str = ""

    @property
    def fingerprint(self) -> str:
        """Names the decisions; "" where there are none."""
        return digest(self._content()) if self.of_image else ""

    def apply(self, sample: Sample) -> Sample:
        """The sample with the decisions in place of its masks; they count as human truth.

        Raises:
            DataError: a mask has another size than its image.
        """
        found = self.of_image.get(sample.image_id)
        if not found:
            return sample
        for n, rle in found.items():
            if rle is not None and rle.size_hw != sample.size_hw:
                raise DataError(
                    f"{self.uri or 'the corrections'}: the mask of object {n} of {sample.image_id} must have the "
                    f"image's size (h, w) {sample.size_hw}, but has {rle.size_hw}. Take it out, and review it again."
                )
        empty = masks.empty(sample.size_hw)
        instances = tuple(
            replace(i, mask=found[n] or empty, score=1.0, evidence=None) if n in found else i
            for n, i in enumerate(sample.instances)
        )
        return replace(sample, instances=instances)

    def merged(self, newer: "Corrections") -> "Corrections":
        """Both; where both decided, the newer."""
        ids = sorted({*self.of_image, *newer.of_image})
        return Corrections({i: {**self.of_image.get(i, {}), **newer.of_image.get(i, {})} for i in ids}, self.uri)

    def save(self, uri: str) -> None:
        """Write them as JSON."""
        storage.write_json(uri, self._content())

    @classmethod
    def load(cls, uri: str) -> "Corrections":
        """Those in a file; none where there is no file.

        Raises:
            DataError: it is damaged.
        """
        if not storage.exists(uri):
            return cls({}, uri)
        content = read_json(uri)
        try:
            return cls({name: {int(n): _rle(rle) for n, rle in of.items()} for name, of in content.items()}, uri)
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{uri} must hold masks by image and object, but: {error}. Take out what is wrong."
            ) from error

    def _content(self) -> dict[str, dict[str, Any]]:
        return {
            name: {str(n): rle and [*rle.size_hw, rle.counts.decode("ascii")] for n, rle in sorted(of.items())}
            for name, of in sorted(self.of_image.items())
        }


def corrections_uri(storage_uri: str, dataset_uri: str) -> str:
    """Where the decisions about a data set are kept: beside all label sets, because they hold for each."""
    name = dataset_uri.rstrip("/").rpartition("/")[2]
    return storage.join(storage.absolute(storage_uri), "corrections", f"{name}.json")


def _rle(content: Any) -> Rle | None:
    if content is None:
        return None
    height, width, counts = content
    return masks.from_coco({"size": [height, width], "counts": counts}, size_hw=(height, width))
