"""What is read: for every reader of the project a small valid example, and the call that a command makes on it."""

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segdist.core import masks, registry
from segdist.core.errors import DataError
from segdist.core.records import Finding
from segdist.datasets.checks import open_image
from segdist.datasets.inputs import Reader, find_inputs
from segdist.reading.archives import unpacked
from segdist.reading.guess import guess_format
from segdist.reading.sources import Faults
from tests.formats.test_contract import EXAMPLES


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        seed: writes a valid example into an empty folder.
        read: reads it, or what has become of it.
    """

    seed: Callable[[Path], object]
    read: Callable[[Path], object]


def _seed_format(name: str, folder: Path) -> None:
    options = EXAMPLES[name](folder)
    (folder / "options").write_text(json.dumps({**options, "path": str(Path(options["path"]).relative_to(folder))}))


def _read_format(name: str, folder: Path) -> None:
    """As `segdist data validate` does: what it is, every sample, every image."""
    options = json.loads(EXAMPLE_OPTIONS[name])
    found: list[Finding] = []
    place = str(folder / options["path"])
    guess_format(place, found.append)
    module = registry.load("formats", name)
    source = module.Format(module.Options.model_validate({**options, "path": place}))
    for sample in Faults(found.append).usable(source.read(found.append)):
        open_image(sample, source.image_bytes(sample))


EXAMPLE_OPTIONS: dict[str, str] = {}
"""Of each format, as its example was written: no case changes them."""


def _format(name: str) -> Target:
    def seed(folder: Path) -> None:
        _seed_format(name, folder)
        EXAMPLE_OPTIONS[name] = (folder / "options").read_text()
        (folder / "options").unlink()

    return Target(seed, partial(_read_format, name))


def _archive(suffix: str) -> Target:
    name = f"export{suffix}"

    def seed(folder: Path) -> None:
        inside = folder / "inside"
        inside.mkdir()
        EXAMPLES["coco"](inside)
        if suffix == ".zip":
            with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as packed:
                for file in sorted(inside.iterdir()):
                    packed.write(file, f"data/{file.name}")
        else:
            kinds = {".tar": "w", ".tar.gz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
            with tarfile.open(folder / name, kinds[suffix]) as bundle:  # type: ignore[call-overload]
                bundle.add(inside, "data")
        shutil.rmtree(inside)

    def read(folder: Path) -> None:
        os.environ["SEGDIST_CACHE"] = str(folder / "cache")
        (folder / "cache").mkdir(mode=0o700)
        unpacked(str(folder / name))

    return Target(seed, read)


def _seed_pictures(folder: Path) -> None:
    picture = Image.fromarray(np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3))
    for name in ("a.jpg", "b.png", "c.tif", "d.webp", "e.bmp", "f.gif", "g.ppm", "h.jp2", "i.ico", "j.icns"):
        picture.resize((32, 32)).save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32)).save(folder / "float.tif")
    Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)).save(folder / "deep.png")


def _read_pictures(folder: Path) -> None:
    """As `segdist predict` does; every picture of the folder, whatever becomes of another."""
    from segdist.reading.examples import decode_image

    reader = Reader()
    for one in find_inputs([str(folder)], lambda _uri, _reason: None):
        try:
            decode_image(reader.read(one), name=one.name)
        except DataError:
            continue


def _seed_table(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    rows = [{"image": content.getvalue(), "name": f"{n}.png"} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")


def _seed_masks(folder: Path) -> None:
    rle = masks.encode(np.eye(24, 32))
    shapes = [
        {"size": [24, 32], "counts": rle.counts.decode()},
        {"size": [24, 32], "counts": [10, 20, 738]},
        [[1.0, 2.0, 20.0, 2.0, 20.0, 15.5], [3, 3, 9, 3, 9, 9, 3, 9]],
    ]
    (folder / "masks.json").write_text(json.dumps(shapes))


def _read_masks(folder: Path) -> None:
    """Straight into the functions that every reader calls: what is wrong is a `ValueError` there."""
    try:
        shapes = json.loads((folder / "masks.json").read_bytes())
    except (ValueError, RecursionError):
        return
    for shape in shapes if isinstance(shapes, list) else []:
        try:
            if isinstance(shape, dict):
                masks.from_coco(shape, size_hw=(24, 32))
            elif isinstance(shape, list):
                masks.from_polygons(shape, size_hw=(24, 32))
        except (ValueError, TypeError, KeyError):
            continue


def _seed_review(folder: Path) -> None:
    from segdist.core.records import Verdict
    from segdist.labelling.review.queue import queue
    from tests.labelling.test_review import SAMPLES, _write_all

    _write_all(folder, queue(SAMPLES, verdicts=[Verdict.REVIEW, Verdict.REJECT], most=10))


def _read_review(tool: str, folder: Path) -> None:
    from segdist.labelling.review import back
    from tests.labelling.test_review import SAMPLES

    name = {"coco": "coco.json", "cvat": "cvat.xml", "label_studio": "submitted.json"}[tool]
    objects = back.read_queue(folder / back.FILE, "hash", SAMPLES)
    returned = back.read_masks(folder / name, objects)
    back.decide(objects, returned, removed_means_nothing=True, only_changed=False)


def _seed_results(folder: Path) -> None:
    EXAMPLES["coco"](folder)
    counts = masks.encode(np.eye(24, 32)).counts.decode()
    one = {"image_id": 1, "category_id": 5, "score": 0.5, "bbox": [1, 2, 10, 10]}
    mask = {**one, "segmentation": {"size": [24, 32], "counts": counts}}
    polygon = {**one, "image_id": 2, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    (folder / "results.json").write_text(json.dumps([one, mask, polygon]))


def _read_results(folder: Path) -> None:
    from segdist.commands.evaluate import evaluate_results

    evaluate_results(folder / "results.json", folder / "coco.json", min_score=0.3)


def _seed_sweep(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(
        "name: tiny\nquestion: Where?\ndefaults: [_self_]\ndata:\n  sources:\n"
        "    - {format: synthetic, scene: roofs, count: 24, size: 64}\n"
        "model: {family: unet_cbam, unet_cbam: {image_size: 64}}\ntrain: {epochs: 6, lr: 1e-3}\n"
        "label: {teacher: {family: sam}, clean: [fill_holes]}\n"
        "space:\n  train.lr: {low: 1e-4, high: 1e-2, log: true}\n  train.batch_size: [4, 8]\nsearch: {trials: 3}\n"
    )


def _read_sweep(folder: Path) -> None:
    from segdist.sweepfile.loading import load

    load(folder / "sweep.yaml")


def _seed_request(folder: Path) -> None:
    Image.new("RGB", (32, 24)).save(folder / "image.png")
    box = {"boxes_xyxy": [[1, 2, 20, 20]], "labels": ["roof"], "points_xy": [[[3, 4]]], "point_is_object": [[True]]}
    (folder / "prompt.json").write_text(json.dumps(box))
    form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    field = b'\r\n--b\r\nContent-Disposition: form-data; name="output"\r\n\r\npolygons\r\n--b--\r\n'
    (folder / "body").write_bytes(form + (folder / "image.png").read_bytes() + field)


def _read_request(folder: Path) -> None:
    """Whatever a client sends, it is answered by 2xx or 4xx."""
    from tests.serving.test_app import HEADERS, client_of

    image, prompt = (folder / "image.png").read_bytes(), (folder / "prompt.json").read_bytes()
    form = {"Content-Type": "multipart/form-data; boundary=b", **HEADERS}
    with client_of(prompts=frozenset({"none", "box", "point"})) as client:
        asked: dict[str, Any] = {"image": ("a.png", image, "image/png"), "prompt": (None, prompt)}
        answers = [
            client.post("/v1/segment", files=asked, headers=HEADERS),
            client.post("/v1/segment", content=(folder / "body").read_bytes(), headers=form),
        ]
    assert all(answer.status_code < 500 for answer in answers), [answer.text[:300] for answer in answers]


def _seed_model(family: str, folder: Path) -> None:
    from tests.engine.shipped import model_folder

    model_folder(folder, family)


def _read_model(folder: Path) -> None:
    from segdist.engine import checkpoint

    checkpoint.load(folder)


def _seed_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3)}
    torch.save(state, folder / "weights.pt")
    torch.save({"state_dict": state}, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "weights.safetensors")


def _read_weights(folder: Path) -> None:
    from segdist.core.errors import WeightsError
    from segdist.nets import state_dicts

    for name in ("weights.pt", "old.pth", "weights.safetensors"):
        try:
            state_dicts.read(str(folder / name))
        except WeightsError:
            continue


TARGETS: dict[str, Target] = {
    **{f"format-{name}": _format(name) for name in EXAMPLES if name != "synthetic"},
    **{f"archive{suffix}": _archive(suffix) for suffix in (".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz")},
    "pictures": Target(_seed_pictures, _read_pictures),
    "table": Target(_seed_table, _read_pictures),
    "masks": Target(_seed_masks, _read_masks),
    **{
        f"review-{tool}": Target(_seed_review, partial(_read_review, tool)) for tool in ("coco", "cvat", "label_studio")
    },
    "results": Target(_seed_results, _read_results),
    "sweep": Target(_seed_sweep, _read_sweep),
    "request": Target(_seed_request, _read_request),
    "weights": Target(_seed_weights, _read_weights),
    **{
        f"model-{family}": Target(partial(_seed_model, family), _read_model)
        for family in ("unet_cbam", "sam", "yolo", "mask2former")
    },
}
