"""Ingest: the same sources are read once, a killed run resumes, and wrong data stop it with nothing left behind."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.spec import SweepSpec
from segdist.datasets import build as building
from segdist.datasets.ingest import ingest_key
from segdist.datasets.shards import Dataset
from segdist.pipeline import ingest as module
from segdist.pipeline.ingest import ingest


def sweep(storage_uri: str, *sources: dict[str, Any], **data: Any) -> SweepSpec:
    content = {
        "name": "t",
        "storage": storage_uri,
        "model": {"family": "unet_cbam"},
        "data": {"sources": sources, **data},
    }
    return SweepSpec.model_validate(content)


DRAWN = {"format": "synthetic", "scene": "cracks", "count": 30, "size": 48}


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        str(tmp_path / "s") if request.param == "local" else request.getfixturevalue("s3_bucket") + "/" + tmp_path.name
    )


def test_a_data_set_has_every_image_once_and_all_splits(root: str) -> None:
    dataset = ingest(sweep(root, DRAWN, {**DRAWN, "scene": "seams", "count": 10}))
    samples = list(dataset.samples())
    assert len({s.image_id for s in samples}) == len(samples) == 40
    assert dataset.manifest.classes == ("crack", "seam")
    assert set(dataset.manifest.splits) == {"train", "val", "test"}
    for _, content in dataset.rows("val"):
        assert content is not None
        assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None


def test_the_second_time_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = sweep(str(tmp_path), DRAWN)
    first = ingest(spec)
    monkeypatch.setattr(building, "read_sources", lambda *_: pytest.fail("read again"))
    assert ingest(spec).manifest == first.manifest


def test_the_key_follows_what_the_data_set_holds_and_not_what_is_hidden_in_it(tmp_path: Path) -> None:
    key = ingest_key(sweep(str(tmp_path), DRAWN))
    assert key == ingest_key(sweep("elsewhere", DRAWN, boxes_only=["train"]))
    assert key != ingest_key(sweep(str(tmp_path), {**DRAWN, "seed": 1}))
    assert key != ingest_key(sweep(str(tmp_path), DRAWN, split={"seed": 1}))


def test_a_killed_run_resumes_with_the_shards_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "IMAGES_PER_SHARD", 5)
    spec = sweep(str(tmp_path), DRAWN)
    undisturbed = ingest(sweep(str(tmp_path / "other"), DRAWN))
    written: list[str] = []
    from segdist.datasets.shards import write_shard as write

    def killed_after_three(uri: str, *arguments: Any, **more: Any) -> Any:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(uri)
        return write(uri, *arguments, **more)

    monkeypatch.setattr(building, "write_shard", killed_after_three)
    with pytest.raises(KeyboardInterrupt):
        ingest(spec)
    with pytest.raises(DataError, match="no complete data set"):
        Dataset.open(written[0].rpartition("/")[0])
    again: list[str] = []

    def counted(uri: str, *arguments: Any, **more: Any) -> Any:
        again.append(uri)
        return write(uri, *arguments, **more)

    monkeypatch.setattr(building, "write_shard", counted)
    monkeypatch.setattr(building, "open_image", lambda *_: pytest.fail("an image was opened again"))
    assert ingest(spec).manifest == undisturbed.manifest
    assert not set(again) & set(written)


def _coco(folder: Path, *, break_image: str = "", break_annotation: bool = False) -> dict[str, Any]:
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(8):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((20, 30, 3), 30 * number, np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": 20, "width": 30})
        polygon = [2, 3, 12, 3, 12, 11] + ([5] if break_annotation and number == 4 else [])
        one = {"id": number, "image_id": number, "category_id": 1, "bbox": [2, 3, 10, 8], "area": 40}
        annotations.append({**one, "segmentation": [polygon]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "crack"}]}
    (folder / "coco.json").write_text(json.dumps(content))
    if break_image == "truncate":
        (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    if break_image == "remove":
        (folder / "3.png").unlink()
    return {"format": "coco", "path": str(folder)}


@pytest.mark.parametrize(
    ("broken", "code", "place"),
    [
        ({"break_image": "truncate"}, "image-unreadable", "3.png"),
        ({"break_image": "remove"}, "image-missing", "3.png"),
        ({"break_annotation": True}, "polygon-odd-length", "annotation 4"),
    ],
)
def test_wrong_data_stop_the_run_with_nothing_left_or_are_left_out_and_counted(
    tmp_path: Path, broken: dict[str, Any], code: str, place: str
) -> None:
    source = _coco(tmp_path / "d", **broken)
    with pytest.raises(DataError, match=code) as caught:
        ingest(sweep(str(tmp_path / "s"), source))
    assert place in str(caught.value)
    assert storage.find(str(tmp_path / "s")) == []
    dataset = ingest(sweep(str(tmp_path / "s"), source, on_error="skip"))
    samples = list(dataset.samples())
    assert len(samples) == 7, "an image whose annotation is wrong is none without objects"
    assert sum(len(s.instances) for s in samples) == 7
    assert dataset.manifest.findings["error"] == {code: 1}
    lost = ["annotations-lost"] * broken.get("break_annotation", False)
    assert [f.code for f in dataset.findings()] == [code, *lost]


def test_without_a_training_sample_there_is_nothing_to_do(tmp_path: Path) -> None:
    _coco(tmp_path / "d" / "valid")
    (tmp_path / "d" / "valid" / "coco.json").rename(tmp_path / "d" / "valid" / "_annotations.coco.json")
    with pytest.raises(DataError, match="No training sample"):
        ingest(sweep(str(tmp_path / "s"), {"format": "coco", "path": str(tmp_path / "d")}))
    with pytest.raises(DataError, match="nothing to learn"):
        ingest(sweep(str(tmp_path / "s"), {**DRAWN, "empty_share": 1.0}))


def test_identical_images_in_two_splits_are_a_warning_that_names_them(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        _coco(tmp_path / "d" / name)
        (tmp_path / "d" / name / "coco.json").rename(tmp_path / "d" / name / "_annotations.coco.json")
    dataset = ingest(sweep(str(tmp_path / "s"), {"format": "coco", "path": str(tmp_path / "d")}))
    assert dataset.manifest.findings["warning"]["image-in-two-splits"] == 8


@pytest.mark.usefixtures("cluster")
def test_many_images_go_through_ray_data_and_give_the_same_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "IMAGES_PER_SHARD", 8)
    inline = ingest(sweep(str(tmp_path / "a"), DRAWN))
    monkeypatch.setattr(module, "INLINE_IMAGES", 0)
    assert ingest(sweep(str(tmp_path / "b"), DRAWN)).manifest == inline.manifest
