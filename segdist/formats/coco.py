"""COCO JSON: a file, a folder with one, or Roboflow's layout of train, valid and test folders."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from pydantic import Field

from segdist import storage
from segdist.data.coco_export import CONVERSION, Writer, recognises
from segdist.data.coco_instances import Categories, instance_of
from segdist.errors import DataError
from segdist.records import Finding, Instance, Sample, Severity
from segdist.spec import Split, Strict, digest

__all__ = ["Format", "Options", "Writer", "recognises", "source_stem"]
Report = Callable[[Finding], None]
ROBOFLOW_FILE = "_annotations.coco.json"
_SPLITS: Mapping[str, Split] = {
    "train": "train", "training": "train", "valid": "val", "val": "val", "validation": "val", "test": "test",
}  # fmt: skip
_IMAGE_FOLDERS = ("", "images", "data")


class Options(Strict):
    """Where the annotations and the images are."""

    path: str
    """A COCO JSON file, or a folder with one inside, or with train, valid and test folders as Roboflow makes them."""
    images: str = ""
    """Folder of the images; empty looks beside the JSON file and in its `images` folder."""
    splits: tuple[Split, ...] = Field(default=("train", "val", "test"), min_length=1)
    """Which of the folder's splits to read."""


@dataclass(frozen=True)
class _Part:
    """One JSON file, with its place and the split it stands for ("" where none is given)."""

    uri: str
    folder: str
    split: str


_Options = Options  # inside `Format` the name stands for the attribute


class Format:
    """Reads COCO annotations; every fault is a finding with file, image and annotation id."""

    Options: ClassVar[type[Strict]] = Options

    def __init__(self, options: Any) -> None:
        # Workers read images by the URIs of samples, from another working directory.
        images = storage.absolute(options.images) if options.images else ""
        changed = {"path": storage.absolute(options.path), "images": images}
        self.options: _Options = options.model_copy(update=changed)

    def signature(self) -> str:
        """Changes with the sizes and times of the JSON files and images."""
        places = {part.folder for part in self._parts()} | {self.options.images or self.options.path}
        files = sorted({(e.uri, e.size, e.stamp) for place in places for e in storage.find(place)})
        return digest([self.options.model_dump(mode="json"), files])

    def read(self, report: Report) -> Iterator[Sample]:
        """Every image listed, annotated or not. An image whose file is missing is reported and still listed."""
        parts = self._parts()
        contents = {part: _load(part.uri) for part in parts}
        categories = Categories({part.uri: contents[part] for part in parts}, report)
        self._note_unread(parts, report)
        for part, content in contents.items():
            if part.split and not content["annotations"]:
                _report_empty_split(part, report)
            yield from _Reader(part, content, categories, self._image_files(part), report).samples()

    def image_bytes(self, sample: Sample) -> bytes:
        """The file as it is."""
        return storage.read_bytes(sample.image_uri)

    def _parts(self) -> list[_Part]:
        path = self.options.path.rstrip("/")
        if not storage.exists(path):
            raise DataError(f"There is no {path}. `path` must name a COCO JSON file or a folder that holds one.")
        if path.endswith(".json"):
            return [_Part(path, path.rpartition("/")[0] or ".", "")]
        names = {e.uri for e in storage.find(path, suffix=".json") if not e.uri.endswith(f"/{CONVERSION}")}
        parts = [
            _Part(uri, uri.rpartition("/")[0], _SPLITS[folder])
            for uri in sorted(names)
            for folder, name in [PurePosixPath(uri).parts[-2:]]
            if name == ROBOFLOW_FILE and folder in _SPLITS and _SPLITS[folder] in self.options.splits
        ]
        parts = parts or [
            _Part(uri, path, "") for uri in sorted(names) if PurePosixPath(uri).parent.name in _json_places(path)
        ]
        if not parts:
            raise DataError(
                f"{path} holds no COCO annotations: no JSON file in it, and no train, valid or test folder with "
                f"{ROBOFLOW_FILE}. Name the JSON file itself in `path`."
            )
        return parts

    def _note_unread(self, parts: list[_Part], report: Report) -> None:
        """Annotation files below the folder that belong to no split that is read."""
        read = {part.uri for part in parts}
        if self.options.path.endswith(".json"):
            return
        for entry in storage.find(self.options.path, suffix=ROBOFLOW_FILE):
            folder = PurePosixPath(entry.uri).parts[-2]
            if entry.uri not in read and folder not in _SPLITS:
                message = f"folder `{folder}` is none of {', '.join(_SPLITS)} and was not read"
                report(Finding("folder-unread", Severity.WARNING, message, file=entry.uri))

    def _image_files(self, part: _Part) -> "_ImageFiles":
        return _ImageFiles(self.options.images or part.folder)


class _ImageFiles:
    """The files below a folder, by the names under which annotations may know them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._files = {e.uri for e in storage.find(folder)}
        self._by_name: dict[str, list[str]] = {}
        for uri in sorted(self._files):
            self._by_name.setdefault(PurePosixPath(uri).name.lower(), []).append(uri)

    def locate(self, file_name: str) -> tuple[str, str]:
        """The file's URI and, where its name had to be changed, how; ("", "") where there is none."""
        root = str(PurePosixPath(self.folder)) if storage.is_local(self.folder) else self.folder
        for below in _IMAGE_FOLDERS:
            uri = storage.join(root, *filter(None, (below, file_name)))
            if uri in self._files or uri.removeprefix("./") in self._files:
                return uri, ""
        near = self._by_name.get(PurePosixPath(file_name).name.lower(), [])
        deeper = [uri for uri in near if uri.removeprefix(root).endswith("/" + file_name)]
        if len(deeper) == 1:
            return deeper[0], ""
        return (near[0], f"`{file_name}` was found as `{near[0].removeprefix(root)}`") if len(near) == 1 else ("", "")


class _Reader:
    """The samples of one JSON file."""

    def __init__(
        self, part: _Part, content: dict[str, Any], categories: Categories, files: _ImageFiles, report: Report
    ) -> None:
        self._part, self._content, self._categories, self._files, self._report = (
            part,
            content,
            categories,
            files,
            report,
        )
        self._has_masks = any(a.get("segmentation") for a in content["annotations"] if isinstance(a, dict))

    def samples(self) -> Iterator[Sample]:
        images = self._images()
        annotations = self._annotations_by_image(images)
        for key, image in images.items():
            sample = self._sample(image, annotations.get(key, []))
            if sample:
                yield sample

    def _images(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        names: Counter[str] = Counter()
        for image in self._content["images"]:
            name = str(image.get("file_name") or "") if isinstance(image, dict) else ""
            key = str(image.get("id")) if isinstance(image, dict) else ""
            names[name] += 1
            if not name or image.get("id") is None:
                self._find("image-malformed", f"an image needs `id` and `file_name`, but is {image!r:.80}", image=name)
            elif key in found:
                self._find(
                    "image-id-duplicate", f"image id {key} is also that of {found[key]['file_name']}", image=name
                )
            elif names[name] > 1:
                self._find("image-name-duplicate", "the same file is listed twice; remove one entry", image=name)
            else:
                found[key] = image
        return found

    def _annotations_by_image(self, images: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        seen: set[str] = set()
        for annotation in self._content["annotations"]:
            if not isinstance(annotation, dict):
                self._find("annotation-malformed", f"an annotation must be an object, but is {annotation!r:.80}")
                continue
            name, key = str(annotation.get("id")), str(annotation.get("image_id"))
            image = str(images[key]["file_name"]) if key in images else ""
            if name in seen and annotation.get("id") is not None:
                message = f"annotation id {name} stands twice; ids must be unique"
                self._find("annotation-id-duplicate", message, image=image, annotation=name)
            elif key not in images:
                self._find("image-unknown", f"there is no image with id {key}", annotation=name)
            else:
                found.setdefault(key, []).append(annotation)
            seen.add(name)
        return found

    def _sample(self, image: dict[str, Any], annotations: list[dict[str, Any]]) -> Sample | None:
        name = str(image["file_name"])
        size_hw = _size(image)
        if size_hw is None:
            came = f"{image.get('height')!r} and {image.get('width')!r}"
            message = f"`height` and `width` must be whole numbers above 0, but are {came}"
            self._find("image-size-invalid", message, image=name)
            return None
        uri, repair = self._files.locate(name)
        image_id = f"{self._part.split}/{name}" if self._part.split else name
        if repair:
            self._find("image-renamed", repair, image=image_id, severity=Severity.REPAIRED)
        if not uri:
            message = f"there is no file `{name}` below {self._files.folder}; name the folder of the images in `images`"
            self._find("image-missing", message, image=image_id)
        return Sample(
            image_id=image_id,
            image_uri=uri or storage.join(self._files.folder, name),
            size_hw=size_hw,
            instances=tuple(i for a in annotations if (i := self._instance(a, size_hw, image_id))),
            split=self._part.split,
            group=source_stem(name),
        )

    def _instance(self, annotation: dict[str, Any], size_hw: tuple[int, int], image_id: str) -> Instance | None:
        instance, findings = instance_of(
            annotation, self._categories.names(self._part.uri), size_hw=size_hw, expects_mask=self._has_masks
        )
        for code, severity, message in findings:
            self._find(code, message, image=image_id, annotation=str(annotation.get("id")), severity=severity)
        return instance

    def _find(
        self, code: str, message: str, *, image: str = "", annotation: str = "", severity: Severity = Severity.ERROR
    ) -> None:
        self._report(Finding(code, severity, message, file=self._part.uri, image=image, annotation=annotation))


def source_stem(file_name: str) -> str:
    """What copies of one image have in common: the name before Roboflow's `.rf.`, or the file's stem."""
    name = PurePosixPath(file_name).name
    return name.partition(".rf.")[0] if ".rf." in name else PurePosixPath(name).stem


def _json_places(path: str) -> tuple[str, str]:
    """Names of the folders in which annotation files lie: the folder itself, and `annotations` as in COCO's own."""
    return PurePosixPath(path).name, "annotations"


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    try:
        height, width = int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (height, width) if min(height, width) > 0 else None


def _report_empty_split(part: _Part, report: Report) -> None:
    severity = Severity.ERROR if part.split == "train" else Severity.WARNING
    message = f"the split {part.split} has no annotation; check the export, or leave the split out with `splits`"
    report(Finding("split-without-annotations", severity, message, file=part.uri))


def _load(uri: str) -> dict[str, Any]:
    """The JSON file, with lists where COCO has lists.

    Raises:
        DataError: it is no COCO file.
    """
    try:
        content = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise DataError(f"{uri} must be JSON, but: {error}. Export the annotations again.") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{uri} must be a COCO file with lists `images`, `annotations` and `categories`: no `{key}`."
            )
    return dict(content)
