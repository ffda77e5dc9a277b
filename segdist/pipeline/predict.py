"""Images in, masks out: a trained model over files and folders."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segdist import registry
from segdist.data.examples import decode_image
from segdist.errors import DataError
from segdist.records import Instance, Sample

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def predict_images(
    model: str, images: Sequence[Path], out: Path, *, boxes: Path | None, storage: str, tracking: str
) -> Path:
    """Segment images; writes `predictions.json` (COCO) and `overlays/<name>.png`.

    Args:
        model: `NAME@champion`, `NAME@VERSION`, a run id, or a model folder.
        images: files, and folders searched through.
        out: the folder to write to.
        boxes: a COCO file whose boxes are segmented, for models prompted with boxes.
        storage: of the sweep that trained the model.
        tracking: its MLflow URI, or "embedded".

    Returns:
        The path of `predictions.json`.

    Raises:
        DataError: there is no image, one cannot be read, or a model that needs boxes got none.
    """
    from segdist.engine import checkpoint
    from segdist.engine.predict import predict
    from segdist.engine.workers import Workers
    from segdist.panels import encode_png, overlay
    from segdist.pipeline.score import model_folder

    files = list(_image_files(images))
    with model_folder(model, storage, tracking) as folder:
        description = checkpoint.describe(folder)
        network: Any = checkpoint.load(folder, device=Workers.here().device)
    evaluate = description.evaluate
    if evaluate.prompts == "box" and boxes is None:
        raise DataError(f"{model} segments what boxes show it. Name a COCO file with boxes: --boxes annotations.json")
    boxes_of = _boxes(boxes) if boxes else {}
    unreadable: list[str] = []
    (out / "overlays").mkdir(parents=True, exist_ok=True)
    coco = _Coco(network.classes)
    for sample, image, prediction in predict(network, _rows(files, boxes_of, unreadable), evaluate):
        found = [i for i in prediction.instances if evaluate.accepts(i.label, i.score)]
        coco.add(sample, found)
        name = f"{Path(sample.image_uri).stem}-{len(coco.images):05d}.png"
        (out / "overlays" / name).write_bytes(encode_png(overlay(image, found, network.classes)))
    target = out / "predictions.json"
    target.write_text(json.dumps(coco.content()))
    if unreadable:
        raise DataError(
            f"{len(unreadable)} of {len(files)} images cannot be read; the others are in {target}:\n"
            + "\n".join(unreadable)
        )
    return target


class _Coco:
    """Predictions as one COCO file."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._ids = {name: number for number, name in enumerate(classes, start=1)}
        self.images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, sample: Sample, instances: Sequence[Instance]) -> None:
        height, width = sample.size_hw
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": sample.image_uri, "height": height, "width": width})
        for instance in instances:
            assert instance.mask is not None
            x1, y1, x2, y2 = instance.mask.box_xyxy
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": number,
                    "category_id": self._ids[instance.label],
                    "segmentation": {"size": [height, width], "counts": instance.mask.counts.decode("ascii")},
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": instance.mask.area,
                    "iscrowd": 0,
                    "score": round(instance.score, 5),
                }
            )

    def content(self) -> dict[str, Any]:
        categories = [{"id": number, "name": name} for name, number in self._ids.items()]
        return {"images": self.images, "annotations": self._annotations, "categories": categories}


def _rows(
    files: Sequence[Path], boxes_of: Mapping[str, tuple[Instance, ...]], unreadable: list[str]
) -> Iterator[tuple[Sample, bytes]]:
    """Samples with their encoded images; files that do not decode are noted and left out."""
    for file in files:
        content = file.read_bytes()
        try:
            height, width = decode_image(content).shape[:2]
        except DataError as error:
            unreadable.append(f"{file}: {error}")
            continue
        yield Sample(str(file), str(file), (height, width), boxes_of.get(file.name, ())), content


def _boxes(file: Path) -> dict[str, tuple[Instance, ...]]:
    """The instances of each image of a COCO file, by file name."""
    coco = registry.load("formats", "coco")
    source = coco.Format(coco.Options(path=str(file)))
    return {Path(s.image_uri).name: s.instances for s in source.read(lambda _: None)}


def _image_files(paths: Sequence[Path]) -> Iterator[Path]:
    found = False
    for path in paths:
        if not path.exists():
            raise DataError(f"There is no {path}. Name image files or folders.")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix.lower() in IMAGE_SUFFIXES:
                found = True
                yield file
    if not found:
        raise DataError(
            f"There is no image in {', '.join(map(str, paths))}: none of {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
