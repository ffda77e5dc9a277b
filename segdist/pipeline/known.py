"""What is known of images before they are predicted: their truth, or the boxes to segment."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from segdist.core import registry
from segdist.core.errors import DataError
from segdist.core.records import Finding
from segdist.core.text import counted
from segdist.datasets.inputs import Input
from segdist.reading.class_names import ClassNames
from segdist.reading.foreign_paths import KnownFiles, Match
from segdist.reading.sources import read_place, stop_on_errors

MOST_SHOWN = 12
"""Images that fit an error of one screen."""


@dataclass(frozen=True)
class Known:
    """What an option names.

    Attributes:
        option: of the command line, for messages.
        content: JSON values by image id.
        uris: where each image lies, as far as its annotations say.
    """

    option: str
    content: Mapping[str, object]
    uris: Mapping[str, str]

    @classmethod
    def truth(cls, place: str, classes: Sequence[str]) -> "Known":
        """The annotations of images, in any format.

        Raises:
            DataError: the place cannot be read, or an annotation in it is wrong.
        """
        samples = [sample for _, sample in read_place(place, classes)] if place else []
        content = {sample.image_id: msgspec.to_builtins(sample) for sample in samples}
        return cls("--truth", content, {sample.image_id: sample.image_uri for sample in samples})

    @classmethod
    def boxes(cls, file: str, classes: Sequence[str]) -> "Known":
        """The labels and boxes of images, in COCO's form.

        Raises:
            DataError: the file cannot be read, or an annotation in it is wrong.
        """
        coco, findings = registry.load("formats", "coco"), list[Finding]()
        samples = list(coco.Format(coco.Options(path=file, find_images=False)).read(findings.append)) if file else []
        stop_on_errors(findings)
        names = ClassNames(lambda _: None, classes)
        content = {
            sample.image_id: [
                [names.spelled(i.label, file), list(i.box_xyxy)] for i in sample.instances if not i.is_crowd
            ]
            for sample in samples
        }
        return cls("--boxes", content, {sample.image_id: sample.image_uri for sample in samples})

    def of(self, inputs: Sequence[Input], say: Callable[[str], None]) -> list[Any]:
        """What is known of each image, None where nothing is.

        The same file is the same image. Else it is the one whose path has the longest ending in common, of the images
        as of the annotations.

        Raises:
            DataError: of some images it is not known which annotations are theirs.
        """
        if not self.content:
            return [None] * len(inputs)
        here = {uri: name for name, uri in self.uris.items()}
        endings = {i.uri: self._ending(i.name if i.column else i.uri) for i in inputs if i.uri not in here}
        endings_count = Counter(endings.values())
        matches = KnownFiles(self.content).match_all(endings_count)
        names = [here.get(one.uri) or matches[endings[one.uri]].name for one in inputs]
        unclear = {
            uri: matches[ending].rivals or (matches[ending].name,)
            for uri, ending in endings.items()
            if self._is_unclear(matches[ending], matches) or (matches[ending].name and endings_count[ending] > 1)
        }
        if unclear:
            lines = [f"  {uri}: {', '.join(rivals[:3])}" for uri, rivals in [*unclear.items()][:MOST_SHOWN]]
            raise DataError(
                f"`{self.option}` fits {counted(len(unclear), 'image')} no better than others. Write the "
                f"folders of the images "
                "into its file names:\n" + "\n".join(lines)
            )
        say(f"{self.option} is known of {sum(map(bool, names))} of {counted(len(inputs), 'image')}")
        return [self.content.get(name) for name in names]

    @cached_property
    def _depth(self) -> int:
        """Parts of the longest path in the annotations."""
        return max(name.replace("\\", "/").count("/") + 1 for name in self.content)

    def _ending(self, path: str) -> str:
        """What of a path can be in common with the annotations: folders further up may be called anything."""
        return "/".join(path.replace("\\", "/").split("/")[-self._depth :])

    def _is_unclear(self, match: Match, matches: Mapping[str, Match]) -> bool:
        """Whether several annotations fit an image, or several images the same annotations; equally well."""
        return any(rival in self.content or not matches[rival].name for rival in match.rivals)
