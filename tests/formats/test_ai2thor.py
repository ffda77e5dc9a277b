"""AI2-THOR: frames as the simulator gives them, in every form of the colour table, and what goes wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdist.core.masks import decode
from segdist.core.records import Finding, Sample, Severity
from segdist.formats.ai2thor import Format, Options
from segdist.reading.guess import guess_format
from tests.formats.reading import read_all

APPLE, FRIDGE, PART = "Apple|-00.47|+01.15|+00.48", "Fridge|-02.10|+00.00|+01.09", "Fridge|-02.10|+00.00|+01.09|Door"
COLOURS = {
    APPLE: [107, 160, 213],
    FRIDGE: [27, 54, 72],
    PART: [1, 2, 3],
    "Apple": [0, 255, 9],
    "FP1:Ceiling": [9, 9, 9],
}
OBJECTS = [{"objectId": APPLE, "objectType": "Apple", "visible": True}, {"objectId": FRIDGE, "objectType": "Fridge"}]


def as_event_metadata() -> dict[str, Any]:
    """What `event.metadata` holds, as far as it matters here."""
    colors = [{"name": name, "color": colour} for name, colour in COLOURS.items()]
    return {"sceneName": "FloorPlan28", "objects": OBJECTS, "colors": colors}


def as_id_to_colour() -> dict[str, Any]:
    return {"metadata": {"sceneName": "FloorPlan28", "objects": OBJECTS}, "object_id_to_color": COLOURS}


def as_colour_to_id() -> dict[str, Any]:
    ids = {str(tuple(colour)): name for name, colour in COLOURS.items()}
    return {"sceneName": "FloorPlan28", "objects": OBJECTS, "color_to_object_id": ids}


def coloured(*names: str) -> np.ndarray[Any, Any]:
    """An instance frame with a stripe of ten columns for each name."""
    frame_HWC = np.zeros((24, 40, 3), np.uint8)
    for number, name in enumerate(names):
        frame_HWC[:, 10 * number : 10 * number + 10] = COLOURS[name]
    return frame_HWC


def scene(folder: Path, *names: str, metadata: Any = None, stem: str = "0001") -> Path:
    for part in ("frames", "instances", "metadata"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((24, 40, 3), 90, np.uint8)).save(folder / "frames" / f"{stem}.jpg")
    Image.fromarray(coloured(*names)).save(folder / "instances" / f"{stem}.png")
    content = as_event_metadata() if metadata is None else metadata
    (folder / "metadata" / f"{stem}.json").write_text(json.dumps(content))
    return folder


def read(folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    return read_all(Format(Options(path=str(folder), **options)))


@pytest.mark.parametrize("metadata", [as_event_metadata(), as_id_to_colour(), as_colour_to_id()])
def test_every_colour_of_the_table_is_an_instance_of_its_objects_type(tmp_path: Path, metadata: Any) -> None:
    folder = scene(tmp_path, APPLE, FRIDGE, metadata=metadata)
    assert guess_format(str(folder)) == "ai2thor"
    (sample,), findings = read(folder)
    assert findings == []
    assert sample.group == "FloorPlan28"
    assert [(i.label, i.box_xyxy) for i in sample.instances] == [("Fridge", (10, 0, 20, 24)), ("Apple", (0, 0, 10, 24))]
    for instance in sample.instances:
        expected = (coloured(APPLE, FRIDGE) == COLOURS[APPLE if instance.label == "Apple" else FRIDGE]).all(axis=2)
        assert instance.mask is not None
        assert np.array_equal(decode(instance.mask), expected)


def test_an_id_that_is_not_in_the_table_is_named_by_its_first_part_and_black_is_nothing(tmp_path: Path) -> None:
    (sample,), findings = read(scene(tmp_path, PART))
    assert findings == []
    assert [(i.label, i.mask.area) for i in sample.instances if i.mask] == [("Fridge", 240)]


def test_what_is_no_object_is_reported_once_and_read_where_it_has_a_class(tmp_path: Path) -> None:
    scene(tmp_path, APPLE, "FP1:Ceiling")
    scene(tmp_path, APPLE, "FP1:Ceiling", stem="0002")
    samples, findings = read(tmp_path)
    assert [len(s.instances) for s in samples] == [1, 1]
    assert [(f.code, f.severity) for f in findings] == [("instance-unlisted", Severity.WARNING)]
    assert "2 frames" in findings[0].message
    samples, findings = read(tmp_path, classes={"FP1:Ceiling": "ceiling"})
    assert findings == []
    assert {i.label for i in samples[0].instances} == {"Apple", "ceiling"}


def test_one_table_may_serve_all_frames_of_a_scene_and_folders_may_be_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = scene(tmp_path / split, APPLE)
        (folder / "metadata" / "0001.json").unlink()
        (folder / "metadata.json").write_text(json.dumps(as_event_metadata() | {"sceneName": ""}))
    samples, findings = read(tmp_path)
    assert findings == []
    assert [(s.split, s.group) for s in samples] == [("train", "train"), ("val", "val")]


def test_a_frame_without_its_pair_or_table_is_an_error_and_the_others_stay(tmp_path: Path) -> None:
    scene(tmp_path, APPLE)
    scene(tmp_path, APPLE, stem="0002")
    scene(tmp_path, APPLE, stem="0003")
    (tmp_path / "instances" / "0002.png").unlink()
    (tmp_path / "metadata" / "0003.json").unlink()
    samples, findings = read(tmp_path)
    assert [s.image_id for s in samples] == ["frames/0001.jpg"]
    assert [(f.code, f.image) for f in findings] == [
        ("image-unannotated", "frames/0002.jpg"),
        ("image-unannotated", "frames/0003.jpg"),
    ]


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({"objects": OBJECTS, "colors": [{"name": APPLE, "color": [1, 1, 1]}]}, "instance-unknown"),
        ({"objects": OBJECTS}, "row-malformed"),
        ([], "row-malformed"),
        ({"objects": OBJECTS, "colors": [{"name": APPLE, "color": [1, 2]}]}, "row-malformed"),
        ({"objects": OBJECTS, "colors": [{"name": APPLE, "color": [300, 0, 0]}]}, "row-malformed"),
        ({"objects": [{}], "colors": [{"name": APPLE, "color": [107, 160, 213]}]}, "row-malformed"),
        ({"colors": [{"name": n, "color": [107, 160, 213]} for n in (APPLE, FRIDGE)]}, "colour-duplicate"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(tmp_path: Path, metadata: Any, code: str) -> None:
    _, findings = read(scene(tmp_path, APPLE, metadata=metadata))
    assert [(f.code, f.severity) for f in findings] == [(code, Severity.ERROR)]


@pytest.mark.parametrize(("suffix", "kind", "code"), [(".jpg", "JPEG", "mask-lossy"), (".png", "", "mask-unreadable")])
def test_an_instance_frame_that_cannot_be_trusted_is_an_error(
    tmp_path: Path, suffix: str, kind: str, code: str
) -> None:
    scene(tmp_path, APPLE)
    (tmp_path / "instances" / "0001.png").unlink()
    file = tmp_path / "instances" / f"0001{suffix}"
    file.write_bytes(b"x") if not kind else Image.fromarray(coloured(APPLE)).save(file, kind)
    _, findings = read(tmp_path)
    assert [(f.code, f.severity) for f in findings] == [(code, Severity.ERROR)]
