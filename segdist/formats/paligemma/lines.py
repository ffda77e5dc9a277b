"""The lines of a file, and where their images are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from segdist.core.bounded_json import parse_json
from segdist.core.errors import DataError
from segdist.core.records import ReportFinding
from segdist.core.text import NotTextError, json_lines, short
from segdist.reading.codes import finding
from segdist.reading.foreign_paths import known_images
from segdist.reading.listing import SPLITS, Listing, split_of
from segdist.reading.text_files import read_text

TASKS = ("detect", "segment")
CODEC = "mask_codec"
"""A key beside image, prefix and suffix: the digest of the codec whose codes the `<seg>` tokens are."""


@dataclass(frozen=True)
class ParsedLine:
    """One usable line.

    Attributes:
        image: as it is written in the line.
        place: the line, for messages.
        suffix: the answer.
        codec: digest of the codec that wrote its masks; "" where the line does not say.
    """

    image: str
    place: str
    suffix: str
    codec: str


def rows(files: Listing, name: str, report: ReportFinding) -> Iterator[ParsedLine]:
    """The lines that ask for objects."""
    uri = files.uri(name)
    try:
        text = read_text(uri, report)
    except NotTextError as error:
        raise DataError(f"{uri}: {error}. Export it again.") from None
    for number, line in enumerate(json_lines(text), 1):
        place = f"line {number}"
        if not line.strip():
            continue
        try:
            content = parse_json(line)
            image, prefix, suffix = (_text(content, key) for key in ("image", "prefix", "suffix"))
        except (ValueError, TypeError, KeyError) as error:
            message = f"a line must be a JSON object with texts `image`, `prefix` and `suffix`: {error}"
            report(finding("row-malformed", message, file=uri, annotation=place))
            continue
        if suffix.strip() and "<loc" not in suffix and prefix.split(" ")[0].strip().lower() not in TASKS:
            message = f"`{prefix:.60}` does not ask to detect or segment; the line was left out"
            report(finding("task-unread", message, file=uri, image=image, annotation=place))
            continue
        yield ParsedLine(image, place, suffix, str(content.get(CODEC, "")))


def _text(content: Mapping[str, object], key: str) -> str:
    if not isinstance(content[key], str):
        raise TypeError(f"`{key}` is {short(content[key])}")
    return str(content[key])


def located(pictures: Listing, image: str, name: str, split: str) -> str:
    """The path of an image: relative to its .jsonl file, to the folder, or with the same end as it is written with."""
    folder = str(PurePosixPath(name).parent) if name else "."
    for candidate in (str(PurePosixPath(folder, image)), image):
        if candidate in pictures:
            return candidate
    return known_images(pictures).match(image, split=split, near=folder).name


def split_in(name: str) -> str:
    """The split that a file is for: by its name (`train.jsonl`, `_annotations.valid.jsonl`) or its folder."""
    parts = PurePosixPath(name).name.lower().replace("-", ".").replace("_", ".").split(".")
    return next((SPLITS[part] for part in parts if part in SPLITS), None) or split_of(name) or ""
