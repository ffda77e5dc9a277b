"""Conversions: exact where the format allows it, every loss counted where not, and a folder that is whole or absent."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as npst
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from segdist.cli import app
from segdist.converting.convert import convert, writable
from segdist.converting.export import FileNames, new_folder
from segdist.core import registry, storage
from segdist.core.errors import DataError, SegdistError, SpecError, StorageError
from segdist.core.masks import decode, encode
from segdist.core.records import Finding, Instance, Sample
from segdist.formats.segdist import Writer
from segdist.reading.archived import open_format
from segdist.reading.guess import guess_format
from segdist.reading.label_maps import rles_by_value
from segdist.reading.outlines import outlines, single_polygon
from tests.formats.test_contract import EXAMPLES

SHARED = Path(__file__).parents[3] / "shared" / "data"
SYNTHETIC = {"scene": "rooms", "count": 4, "size": 64}


def _hard() -> Sample:
    """A hole, two parts, pixels that touch at a corner only, overlaps, a full image: what formats lose."""
    ring, parts, corner = (np.zeros((40, 50), np.bool_) for _ in range(3))
    ring[5:25, 5:25] = True
    ring[10:20, 10:20] = False
    parts[2:8, 30:45] = parts[30:38, 2:9] = True
    corner[30:33, 30:33] = corner[33:36, 33:36] = True
    named = [("door", ring), ("door", parts), ("wall", ring[::-1]), ("wall", corner)]
    found = [(label, encode(mask)) for label, mask in [*named, ("wall", np.ones((40, 50), np.bool_))]]
    return Sample("hard", "", (40, 50), tuple(Instance(label, rle, rle.box_xyxy) for label, rle in found))


def _drawn(folder: Path) -> str:
    """A data set of drawn scenes and the hard image."""
    source = open_format("synthetic", SYNTHETIC)
    rows = [(s, source.image_bytes(s)) for s in source.read(lambda finding: pytest.fail(str(finding)))]
    rows.append((_hard(), _png((50, 40))))
    folder.mkdir()
    labels = sorted({i.label for s, _ in rows for i in s.instances})
    writer = Writer(folder, labels, Writer.Options(), lambda finding: pytest.fail(str(finding)))
    for sample, image_bytes in rows:
        writer.add(sample, image_bytes, sample.image_id)
    writer.close()
    return str(folder)


def _png(size_wh: tuple[int, int] = (4, 4)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size_wh).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("to", "options"),
    [("coco", {}), ("hf_objects", {}), ("segdist", {}), ("png_masks", {"kind": "instance_id"}), ("yolo", {})],
)
def test_masks_come_back_to_the_pixel_where_the_format_allows_it(
    tmp_path: Path, to: str, options: dict[str, Any]
) -> None:
    result = convert(_drawn(tmp_path / "in"), str(tmp_path / "out"), to=to, write_options=options)
    trip = result["round_trip"]
    assert trip["masks"] == trip["masks_exact"] == result["masks"] > 4
    assert trip["instances_back"] == result["instances"]
    assert result["read_back"] == []
    assert storage.read_json(str(tmp_path / "out" / "conversion.json")) == result
    if to != "yolo":
        assert trip["exact"]
        assert result["losses"] == []


@pytest.mark.parametrize(
    ("to", "options", "codes"),
    [
        ("paligemma", {}, {"mask-coded"}),
        ("paligemma", {"codec": ""}, {"mask-dropped"}),
        ("png_masks", {"kind": "class_id"}, {"overlap-dropped", "instance-merged"}),
        ("png_masks", {"kind": "binary"}, {"class-dropped", "instance-merged"}),
        ("yolo", {"task": "detect"}, {"mask-dropped"}),
    ],
)
def test_what_a_format_cannot_hold_is_counted_and_named(
    tmp_path: Path, to: str, options: dict[str, Any], codes: set[str]
) -> None:
    result = convert(_drawn(tmp_path / "in"), str(tmp_path / "out"), to=to, write_options=options)
    found = {entry["code"]: entry for entry in result["losses"]}
    assert codes <= set(found)
    assert all(found[code]["count"] > 0 and found[code]["examples"][0]["image"] for code in codes)
    assert not result["round_trip"]["exact"]
    if "mask-dropped" in codes:
        assert found["mask-dropped"]["count"] == result["masks"]


def _loses_an_instance(sample: Sample) -> Sample:
    return replace(sample, instances=sample.instances[:-1])


def _renames(sample: Sample) -> Sample:
    (first, *rest) = sample.instances
    other = "wall" if first.label == "door" else "door"
    return replace(sample, instances=(replace(first, label=other), *rest))


def _repeats(sample: Sample) -> Sample:
    shifted = replace(sample.instances[0], mask=None, box_xyxy=(1, 1, 3, 3))
    return replace(sample, instances=(*sample.instances, shifted))


def _erodes(sample: Sample) -> Sample:
    (first, *rest) = sample.instances
    assert first.mask is not None
    inner = decode(first.mask).copy()
    inner[np.argwhere(inner)[0][0], :] = False
    return replace(sample, instances=(replace(first, mask=encode(inner)), *rest))


def _shifts(sample: Sample) -> Sample:
    (first, *rest) = sample.instances
    x1, y1, x2, y2 = first.box_xyxy
    return replace(sample, instances=(replace(first, box_xyxy=(x1, y1, x2 - 1, y2)), *rest))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_loses_an_instance, "gone: 1 of 5 instances (wall)"),
        (_renames, "gone: 1 of 5 instances (door)"),
        (_repeats, "1 instance is there that nobody wrote"),
        (_erodes, "changed: 1 of 5 masks"),
        (_shifts, "moved: 1 of 5 boxes"),
        (lambda sample: replace(sample, split="train"), "it is not there as it was"),
    ],
)
def test_what_is_lost_without_a_word_makes_a_conversion_fail_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Sample], Sample], said: str
) -> None:
    module = registry.load("formats", "coco")

    class Careless(module.Writer):  # type: ignore[name-defined]
        def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None:
            super().add(change(sample) if "hard" in sample.image_id else sample, image_bytes, file_name)

    place = _drawn(tmp_path / "in")
    monkeypatch.setattr(module, "Writer", Careless)
    result = CliRunner().invoke(app, ["data", "convert", place, "--to", "coco", "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert f"hard: {said}" in result.output
    assert "was not written" in result.output
    assert not (tmp_path / "out").exists()
    kept = CliRunner().invoke(
        app, ["data", "convert", place, "--to", "coco", "-o", str(tmp_path / "out"), "--no-verify"]
    )
    assert kept.exit_code == 0, kept.output


WRITERS: list[tuple[str, dict[str, Any]]] = [
    ("coco", {}), ("hf_objects", {}), ("segdist", {}), ("yolo", {}), ("yolo", {"task": "detect"}),
    ("paligemma", {}), ("paligemma", {"codec": ""}),
    *[("png_masks", {"kind": kind}) for kind in ("instance_id", "class_id", "binary")],
]  # fmt: skip


@pytest.mark.parametrize(("to", "options"), WRITERS)
def test_losses_that_were_told_never_make_a_conversion_fail(tmp_path: Path, to: str, options: dict[str, Any]) -> None:
    """Crowds, scores, boxes alone, boxes beside masks, overlaps, specks, what is the same in few digits."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(12):
        instances = []
        for _ in range(rng.integers(0, 7)):
            x, y = rng.integers(0, 45), rng.integers(0, 35)
            mask = np.zeros((40, 50), np.bool_)
            mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
            rle = encode(mask)
            x1, y1, x2, y2 = rle.box_xyxy
            box = (x1, y1, max(x2 - rng.random(), x1 + 0.01), y2) if rng.random() < 0.3 else rle.box_xyxy
            one = Instance(str(rng.choice(["door", "wall"])), rle, box, float(rng.choice([1.0, 0.5])))
            one = replace(one, mask=None) if rng.random() < 0.3 else one
            one = replace(one, is_crowd=True) if rng.random() < 0.2 else one
            near = replace(one, box_xyxy=(box[0], box[1], box[2] - 1e-9, box[3])) if rng.random() < 0.3 else None
            instances += [one, near] if near else [one]
        rows.append(Sample(f"{number}.png", "", (40, 50), tuple(instances), split="train"))
    (tmp_path / "in").mkdir()
    writer = Writer(tmp_path / "in", ["door", "wall"], Writer.Options(), lambda finding: pytest.fail(str(finding)))
    for sample in rows:
        writer.add(sample, _png((50, 40)), sample.image_id)
    writer.close()
    result = convert(str(tmp_path / "in"), str(tmp_path / "out"), to=to, write_options=options)
    assert result["instances"] == sum(len(sample.instances) for sample in rows) > 30
    assert result["round_trip"]["images_back"] == 12


@settings(max_examples=200, deadline=None)
@given(npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=16)))
def test_the_polygon_of_any_mask_rasterises_back_to_it_in_pycocotools(mask_HW: np.ndarray[Any, Any]) -> None:
    loops = outlines(encode(mask_HW))
    assert bool(loops) == mask_HW.any()
    if loops:
        polygon = single_polygon(loops).ravel().astype(float).tolist()
        height, width = mask_HW.shape
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], height, width)))
        assert np.array_equal(drawn, mask_HW)


@settings(max_examples=100, deadline=None)
@given(
    npst.arrays(
        np.int64, npst.array_shapes(min_dims=2, max_dims=2, max_side=12), elements={"min_value": 0, "max_value": 4}
    )
)
def test_a_label_map_is_taken_apart_as_comparing_pixels_does(values_HW: np.ndarray[Any, Any]) -> None:
    found = rles_by_value(values_HW)
    assert sorted(found) == [n for n in np.unique(values_HW) if n]
    for number, rle in found.items():
        assert rle == encode(values_HW == number)
        assert np.array_equal(decode(rle), values_HW == number)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"synthetic"}))
def test_a_small_source_of_every_format_is_recognised_and_converted(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    options = EXAMPLES[name](tmp_path / "in")
    place = options.pop("path")
    assert guess_format(place, lambda finding: pytest.fail(str(finding))) == name
    if name == "images":
        result = convert(place, str(tmp_path / "out"), to="coco")
        assert (result["images"], result["instances"]) == (3, 0)
        return
    result = convert(place, str(tmp_path / "out"), to="coco", read_options=options, format_name=name if options else "")
    assert result["images"] == 3
    assert result["round_trip"]["exact"]


def test_the_same_goes_to_a_bucket_and_back(tmp_path: Path, s3_bucket: str) -> None:
    out = f"{s3_bucket}/{tmp_path.name}"
    convert(_drawn(tmp_path / "in"), f"{out}/png", to="png_masks")
    result = convert(f"{out}/png", f"{out}/coco", to="coco")
    assert result["format"] == "png_masks"
    assert result["round_trip"]["exact"]
    assert storage.exists(f"{out}/coco/conversion.json")


@pytest.mark.parametrize("to", ["segdist", "coco", "yolo", "hf_objects", "png_masks"])
def test_images_of_one_name_in_several_folders_come_back_each_with_its_own_objects(tmp_path: Path, to: str) -> None:
    lines = []
    for number, name in enumerate(("cam1/0001.jpg", "cam2/0001.jpg", "cam2__0001.jpg", "0001.jpg")):
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 50, 3), 40 * number, np.uint8)).save(file)
        x = 10 * number
        square = [[x, 5, x + 8, 5, x + 8, 20, x, 20]]
        owner = {"id": number + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
        lines.append({**owner, "segmentation": square, "bbox": [x, 5, 8, 15], "area": 120, "file_name": name})
    images = [{"id": a["image_id"], "file_name": a["file_name"], "height": 40, "width": 50} for a in lines]
    content = {"images": images, "annotations": lines, "categories": [{"id": 1, "name": "crack"}]}
    (tmp_path / "in" / "a.json").write_text(json.dumps(content))
    result = convert(str(tmp_path / "in"), str(tmp_path / "out"), to=to)
    trip = result["round_trip"]
    assert (trip["images_back"], trip["instances_back"], trip["masks_exact"]) == (4, 4, 4)


def test_a_conversion_that_fails_leaves_nothing_and_one_that_exists_is_kept(tmp_path: Path) -> None:

    def break_half_way() -> None:
        with new_folder(str(tmp_path / "out")) as folder:
            (folder / "half").write_text("x")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        break_half_way()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(StorageError, match="must not exist yet"), new_folder(str(tmp_path / "out")):
        pass
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_files_of_one_stem_get_different_names_in_whatever_case() -> None:
    names = FileNames()
    ids = ["train/a.jpg", "0/train/A.png", "1/train/a.jpg", "1/val/a.jpg", "b/..", "c?<d.png"]
    given_names = [names.name(Sample(name, "", (4, 4)), _png()) for name in ids]
    stems = [Path(name).stem.casefold() for name in given_names]
    assert len(set(stems)) == len(ids)
    assert given_names[0] == "a.jpg"
    assert not any(set(name) & set('/\\?<>:"|*') for name in given_names)
    assert [names.name(Sample(name, "", (4, 4)), _png()) for name in ("con.jpg", "50%.jpg", "cam2\\z.jpg")] == [
        "%63on.jpg",
        "50%.jpg",
        "z.jpg",
    ]


def test_what_cannot_be_told_or_written_is_one_message_with_the_candidates(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no files"):
        guess_format(str(tmp_path), lambda finding: None)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"no format that is recognised.*coco"):
        guess_format(str(tmp_path), lambda finding: None)
    with pytest.raises(SpecError, match=r"read but not written\. Written can be: coco"):
        convert(str(tmp_path), str(tmp_path / "out"), to="images")
    with pytest.raises(SpecError, match="option `task` for writing yolo"):
        convert(str(tmp_path), str(tmp_path / "out"), to="yolo", write_options={"task": "fly"})
    assert {"coco", "yolo", "png_masks", "paligemma", "segdist"} <= set(writable())


def test_two_formats_of_which_neither_is_richer_are_both_named(tmp_path: Path) -> None:
    EXAMPLES["yolo"](tmp_path)
    (tmp_path / "a.json").write_text('{"version": "5", "shapes": []}')
    with pytest.raises(DataError, match=r"labelme or as yolo\. Say which: --format labelme"):
        guess_format(str(tmp_path), lambda finding: None)


def _codes(entries: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {entry["code"]: entry["count"] for entry in entries}


@pytest.mark.skipif(not SHARED.exists(), reason="the real exports lie beside the project only here")
def test_real_potholes_are_two_formats_and_their_yolo_side_is_read_with_its_faults_named(tmp_path: Path) -> None:
    reported: list[Finding] = []
    assert guess_format(str(SHARED / "potholes"), reported.append) == "coco"
    assert [f.code for f in reported] == ["format-ambiguous"]
    assert "--format yolo" in reported[0].message
    result = convert(str(SHARED / "potholes"), str(tmp_path / "out"), to="yolo", format_name="yolo")
    assert (result["images"], result["masks"], result["round_trip"]["masks_exact"]) == (85, 115, 115)
    found = _codes(result["findings"])
    assert found["split-path-repaired"] == 2
    assert found["label-file-missing"] == 1


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the real exports lie beside the project only here")
@pytest.mark.parametrize("to", ["coco", "hf_objects", "png_masks", "yolo", "segdist"])
@pytest.mark.parametrize("name", ["facades", "buildings", "potholes"])
def test_every_mask_of_the_real_exports_comes_back_to_the_pixel(tmp_path: Path, name: str, to: str) -> None:
    try:
        result = convert(str(SHARED / name), str(tmp_path / "out"), to=to, format_name="coco", skip_errors=True)
    except SegdistError as error:
        pytest.fail(str(error))
    assert result["round_trip"]["masks_exact"] == result["masks"] > 0
