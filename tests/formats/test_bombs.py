"""Small files that ask for much memory or time are named, and cost neither, in every format."""

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segdist.checking.validation import review
from segdist.core import masks, registry
from segdist.core.errors import DataError
from segdist.core.records import Instance, Sample
from segdist.datasets.rows import SCHEMA, to_row
from segdist.datasets.shards import write_manifest, write_shard
from segdist.reading import xml_files
from segdist.reading.archived import open_format
from segdist.reading.coco.instances import Categories
from tests.formats.reading import read_all

H, W = 48, 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (W, H)).save(tmp_path / "a.png")
    return tmp_path


def _codes(name: str, folder: Path, **options: Any) -> tuple[list[Sample], list[str]]:
    module = registry.load("formats", name)
    samples, findings = read_all(module.Format(module.Options(path=str(folder), **options)))
    assert all(len(f.message) < 1000 for f in findings)
    return samples, [f.code for f in findings]


def _coco(folder: Path, segmentation: Any, **image: Any) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": H, "width": W, **image}],
        "categories": [{"id": 1, "name": "crack"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": segmentation}],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def _png(width: int, height: int) -> str:
    """A PNG that says it is so large, and is not."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return base64.b64encode(content).decode()


def _without_image(folder: Path) -> Path:
    (folder / "a.png").unlink()
    return folder


def _labelme(folder: Path, shape: dict[str, Any], **fields: Any) -> Path:
    shape = {"label": "crack", "points": [[1, 1], [9, 9]], **shape}
    content = {"imagePath": "a.png", "imageHeight": H, "imageWidth": W, "shapes": [shape], **fields}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


def _yolo(folder: Path, line: str) -> Path:
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    (folder / "a.png").rename(folder / "images" / "a.png")
    (folder / "labels" / "a.txt").write_text(line)
    (folder / "data.yaml").write_text("train: images\nnames: [crack]\n")
    return folder


def _voc(folder: Path, polygon: str, size: str = f"<height>{H}</height><width>{W}</width>") -> Path:
    (folder / "a.xml").write_text(
        f"<annotation><filename>a.png</filename><size>{size}</size><object><name>crack</name><bndbox><xmin>2</xmin>"
        f"<ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>{polygon}</object></annotation>"
    )
    return folder


def _table(folder: Path, segmentation: Any, **row: Any) -> Path:
    image = {"bytes": (folder / "a.png").read_bytes(), "path": "a.png"}
    objects = [{"category": "crack", "bbox": [1.0, 1.0, 9.0, 9.0], "segmentation": segmentation}]
    pq.write_table(pa.Table.from_pylist([{"image": image, "objects": objects, **row}]), folder / "train.parquet")
    return folder


MANY = [0.0, 0.0, 9.0, 0.0, 9.0, 9.0] * 400
SCRIBBLE = [0.0, 0.0, float(W), float(H)] * 100


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of what is allowed: what comes here is as much smaller than a bomb."""
    monkeypatch.setattr(masks, "MOST_POINTS", 1000)
    monkeypatch.setattr(masks, "MOST_OUTLINE", 4000)
    monkeypatch.setattr(masks, "MOST_RUNS", 8000)
    monkeypatch.setattr(xml_files, "MOST_TAGS", 2000)


BOMBS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "coco: a million points": ("coco", lambda f: _coco(f, [MANY]), "polygon-too-large"),
    "coco: a million points in pairs": ("coco", lambda f: _coco(f, [[[1, 2]] * 1100]), "polygon-too-large"),
    "coco: a million polygons": ("coco", lambda f: _coco(f, [[1, 2]] * 1100), "polygon-too-large"),
    "coco: an endless outline": ("coco", lambda f: _coco(f, [SCRIBBLE]), "polygon-too-large"),
    "coco: polygons as text": ("coco", lambda f: _coco(f, json.dumps([SCRIBBLE])), "polygon-too-large"),
    "coco: polygons as deep text": ("coco", lambda f: _coco(f, "[" * 5000), "segmentation-malformed"),
    "coco: brackets": ("coco", lambda f: _coco(f, json.loads("[" * 300 + "]" * 300)), "number-invalid"),
    "coco: many run lengths": (
        "coco",
        lambda f: _coco(f, {"size": [H, W], "counts": "0" * 8400}),
        "rle-malformed",
    ),
    "coco: long run lengths": ("coco", lambda f: _coco(f, {"size": [H, W], "counts": [10**30]}), "rle-malformed"),
    "coco: a large image": ("coco", lambda f: _coco(f, [MANY[:6]], height=10**6, width=10**6), "image-size-invalid"),
    "coco: run lengths of a large image": (
        "coco",
        lambda f: _coco(f, {"size": [10**5, 10**5], "counts": [10**10]}, height=10**5, width=10**5),
        "image-size-invalid",
    ),
    "labelme: a million points": (
        "labelme",
        lambda f: _labelme(f, {"points": np.reshape(MANY, (-1, 2)).tolist()}),
        "polygon-too-large",
    ),
    "labelme: a large mask": (
        "labelme",
        lambda f: _labelme(f, {"shape_type": "mask", "mask": _png(13_000, 13_000)}),
        "mask-unreadable",
    ),
    "labelme: a large image": (
        "labelme",
        lambda f: _labelme(f, {}, imageHeight=30_000, imageWidth=30_000),
        "image-size-invalid",
    ),
    "labelme: a large embedded image": (
        "labelme",
        lambda f: _labelme(_without_image(f), {}, imageData=_png(10**6, 10**6), imageHeight=None),
        "image-unreadable",
    ),
    "yolo: a million numbers": ("yolo", lambda f: _yolo(f, "0" + " 0.1 0.2" * 1100), "polygon-too-large"),
    "yolo: an endless outline": ("yolo", lambda f: _yolo(f, "0" + " 0 0 1 1" * 100), "polygon-too-large"),
    "voc: an endless outline": (
        "voc",
        lambda f: _voc(f, "<polygon>" + f"<pt><x>1</x><y>1</y></pt><pt><x>{W}</x><y>{H}</y></pt>" * 100 + "</polygon>"),
        "polygon-too-large",
    ),
    "voc: a large image": (
        "voc",
        lambda f: _voc(f, "", "<height>1000000</height><width>1000000</width>"),
        "image-size-invalid",
    ),
    "voc: a million tags": ("voc", lambda f: _voc(f, "<a/>" * 2000), "row-malformed"),
    "hf_objects: an endless outline": ("hf_objects", lambda f: _table(f, [SCRIBBLE]), "polygon-too-large"),
    "hf_objects: a large image": (
        "hf_objects",
        lambda f: _table(f, [MANY[:6]], height=10**6, width=10**6),
        "image-size-invalid",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_named(folder: Path, bomb: str) -> None:
    name, make, code = BOMBS[bomb]
    _, codes = _codes(name, make(folder), **({"names": ("crack",)} if name == "hf_objects" else {}))
    assert code in codes


def test_corners_of_voc_that_are_numbered_are_read_in_one_pass(folder: Path) -> None:
    points = "".join(f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate([(2, 2), (9, 2), (9, 9)], 1))
    (sample,), codes = _codes("voc", _voc(folder, f"<polygon>{points}<x9>9</x9></polygon>"))
    assert codes == []
    assert sample.instances[0].mask == masks.from_polygons([[1, 1, 8, 1, 8, 8]], size_hw=(H, W))


@pytest.mark.parametrize("shape", [{"shape_type": "circle"}, {"shape_type": "line"}, {"shape_type": "rectangle"}])
def test_shapes_cost_their_own_size_not_that_which_the_image_is_said_to_have(
    folder: Path, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = np.zeros

    def counted(size: Any, *args: Any, **options: Any) -> Any:
        made.append(int(np.prod(size)))
        return real(size, *args, **options)

    monkeypatch.setattr(np, "zeros", counted)
    _labelme(folder, shape, imageHeight=13_000, imageWidth=13_000)
    (sample,), _ = _codes("labelme", folder, rectangles="masks", line_width=3.0)
    (instance,) = sample.instances
    assert instance.mask is not None
    assert 0 < instance.mask.area < 500
    assert max(made, default=0) < 1_000_000


def test_a_hundred_thousand_categories_are_read_in_one_pass() -> None:
    listed = [{"id": n, "name": f"class {n // 2}", "supercategory": f"class {n}"} for n in range(100_000)]
    findings: list[Any] = []
    names = Categories(findings.append).add("coco.json", listed, {str(n) for n in range(100_000)})
    assert len(names) == 100_000
    assert len(set(names.values())) == 50_000
    assert sum(f.code == "category-name-duplicate" for f in findings) == 50_000


def _shard(folder: Path, **changes: Any) -> Path:
    rle = masks.from_box((1, 1, 9, 9), size_hw=(H, W))
    sample = Sample("a", "a.png", (H, W), (Instance("crack", rle, rle.box_xyxy),), split="train")
    row = to_row(sample, (folder / "a.png").read_bytes())
    write_manifest(
        str(folder / "set"), "dataset", ("crack",), [write_shard(str(folder / "set" / "s.parquet"), [(sample, b"x")])]
    )
    instance = {**row["instances"][0], **{k: v for k, v in changes.items() if k in row["instances"][0]}}
    row |= {"instances": [instance], **{k: v for k, v in changes.items() if k in row}}
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), folder / "set" / "s.parquet")
    return folder / "set"


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 10**6, "width": 10**6},
        {"height": 10, "width": 10},
        {"height": -1},
        {"counts": b"0"},
        {"counts": b"\xff\xff"},
        {"counts": b""},
        {"proposed": b"11", "verdict": "accept"},
        {"unsure": b"11", "verdict": "accept"},
        {"box": [9.0, 9.0, 1.0, 1.0]},
        {"verdict": "perhaps"},
    ],
    ids=str,
)
def test_a_shard_that_lies_about_its_masks_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="must be a shard as segdist writes it"):
        _codes("segdist", _shard(folder, **changes))


def test_an_honest_shard_and_one_of_other_columns(folder: Path) -> None:
    (sample,), _ = _codes("segdist", _shard(folder))
    assert sample.instances[0].mask == masks.from_box((1, 1, 9, 9), size_hw=(H, W))
    pq.write_table(pa.table({"image_id": [1], "height": ["tall"]}), folder / "set" / "s.parquet")
    with pytest.raises(DataError):
        _codes("segdist", folder / "set")


@pytest.mark.parametrize("content", ["[" * 5000, "[]", "7", '"x"', "{}"])
def test_a_manifest_of_another_form_is_refused(folder: Path, content: str) -> None:
    place = _shard(folder)
    (place / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest.json"):
        _codes("segdist", place)


def test_an_image_with_more_annotations_than_fit_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdist.formats.coco._MOST_OF_IMAGE", 100)
    samples, codes = _codes("coco", _coco(folder, [MANY[:300]]))
    assert not samples
    assert "image-too-crowded" in codes


def test_annotations_are_decoded_in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads((_coco(folder, []) / "coco.json").read_text())
    squares = [[x, 1, x + 3, 1, x + 3, 9, x, 9] for x in range(1, 41, 4)]
    content["annotations"] = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [s[0], 1, 3, 8], "segmentation": [s]}
        for n, s in enumerate(squares)
    ]
    (folder / "coco.json").write_text(json.dumps(content))
    (whole,), _ = _codes("coco", folder)
    monkeypatch.setattr("segdist.reading.coco.chunk._PIECE", 250)
    (pieces,), _ = _codes("coco", folder)
    assert len(whole.instances) == 10
    assert pieces == whole


def test_an_embedded_image_is_still_read(folder: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (W, H)).save(content, "PNG")
    embedded = base64.b64encode(content.getvalue()).decode()
    (sample,), _ = _codes("labelme", _labelme(folder, {"shape_type": "circle"}, imagePath="b.png", imageData=embedded))
    assert sample.size_hw == (H, W)


def test_annotations_that_are_nested_without_end_are_named(folder: Path) -> None:
    content = (_coco(folder, []) / "coco.json").read_text()
    (folder / "coco.json").write_text(content.replace('"bbox"', '"more": ' + "[" * 50_000 + "]" * 50_000 + ', "bbox"'))
    with pytest.raises(DataError, match=r"coco.json must be JSON, but: maximum recursion depth"):
        _codes("coco", folder)


def test_a_piece_of_a_source_is_told_of_its_own_images_alone(folder: Path) -> None:
    """All that is known would be copied with every piece, which takes quadratic time."""
    content = json.loads((_coco(folder, []) / "coco.json").read_text())
    content["images"] += [{"id": n, "file_name": f"{n}.png", "height": H, "width": W} for n in range(2, 100)]
    (folder / "coco.json").write_text(json.dumps({**content, "annotations": []}))
    handed: list[int] = []

    def counted(function: Any, items: Any) -> Any:
        for item in items:
            handed.append(len(item.unusable))
            yield function(item)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segdist.checking.validation.ordered_map", counted)
        found = review(open_format("coco", {"path": str(folder)}), "coco")
    assert found.images == 1
    assert sum(handed) == 98
