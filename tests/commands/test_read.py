"""`segdist.read_dataset` and `segdist.evaluate`: the images, findings and numbers of the commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import segdist
from segdist.cli import app
from segdist.core import masks
from segdist.core.errors import DataError, SpecError
from tests.engine.shipped import model_folder
from tests.pipeline.conftest import SWEEP


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn roofs as a COCO folder with three splits."""
    folder = tmp_path_factory.mktemp("export")
    source = "sources: [{format: synthetic, scene: roofs, count: 12, size: 48}]\nsplit: {val: 0.25, test: 0.25}\n"
    (folder / "source.yaml").write_text(source)
    for words in (
        ["data", "merge", str(folder / "source.yaml"), "-o", str(folder / "made")],
        ["data", "convert", str(folder / "made"), "--to", "coco", "-o", str(folder / "coco")],
    ):
        assert CliRunner().invoke(app, words).exit_code == 0
    return folder / "coco"


def test_a_folder_is_a_sequence_of_samples_with_their_pixels(export: Path) -> None:
    data = segdist.read_dataset(export)
    assert len(data) == len(data.samples) == 12
    assert data.classes == ("roof",)
    assert not data.findings
    assert "12 images" in repr(data)
    for (sample, image), known in zip(data, data.samples, strict=True):
        assert sample == known
        assert image.shape == (*sample.size_hw, 3)
        assert image.dtype == np.uint8
        with Image.open(sample.image_uri) as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), image)
    assert [sample.image_id for sample, _ in data[2:4]] == [sample.image_id for sample in data.samples[2:4]]
    assert data[-1][0] == data.samples[-1]
    with pytest.raises(IndexError):
        data[12]


def test_a_split_is_a_part_and_an_unknown_one_is_named(export: Path) -> None:
    parts = [segdist.read_dataset(export, split=name) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 3, 3]
    assert {sample.split for sample in parts[1].samples} == {"val"}
    with pytest.raises(DataError, match="Did you mean `val`"):
        segdist.read_dataset(export, split="vall")


def test_a_sweep_file_and_its_stored_data_set_give_the_same_images(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(SWEEP.format(storage=tmp_path / "storage"))
    data = segdist.read_dataset(file)
    assert [sample for sample, _ in data] == list(data.samples)
    (stored,) = (tmp_path / "storage" / "datasets").iterdir()
    again = segdist.read_dataset(stored)
    assert {s.image_id: s.instances for s in again.samples} == {s.image_id: s.instances for s in data.samples}
    assert len(segdist.read_dataset(file, split="test")) + len(segdist.read_dataset(file, split="val")) == 7


def test_what_is_wrong_stops_or_is_a_finding(export: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(export / "train", tmp_path / "wrong"))
    file = folder / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 77
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="77"):
        segdist.read_dataset(folder)
    found = segdist.read_dataset(folder, skip_errors=True)
    assert any("77" in one.message for one in found.findings)
    assert 0 < sum(len(sample.instances) for sample in found.samples) < len(content["annotations"])


def test_a_format_and_its_options_are_checked(export: Path, tmp_path: Path) -> None:
    assert len(segdist.read_dataset(export, format_name="coco", options={"find_images": False})) == 12
    assert len(segdist.read_dataset(export / "train", format_name="images")) == 6
    with pytest.raises(SpecError, match="Did you mean `coco`"):
        segdist.read_dataset(export, format_name="cocoo")
    with pytest.raises(SpecError, match="find_image"):
        segdist.read_dataset(export, format_name="coco", options={"find_imagess": False})
    with pytest.raises(SpecError, match="name it"):
        segdist.read_dataset(export, options={"find_images": False})
    with pytest.raises(DataError, match="no files"):
        segdist.read_dataset(tmp_path / "nowhere")


def test_a_model_scores_as_on_the_command_line_by_its_name_and_loaded(export: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "unet_cbam")
    told = CliRunner().invoke(app, ["evaluate", str(folder), str(export), "--split", "val", "--json"])
    assert told.exit_code == 0, told.output
    expected = json.loads(told.stdout)
    for model in (folder, segdist.load_model(folder)):
        found = segdist.evaluate(model, export, split="val")
        assert found["metrics"]["iou"] == expected["metrics"]["iou"]
        assert found["metrics"]["model/bytes"] == expected["metrics"]["model/bytes"]
        assert found.keys() == expected.keys()
        same = ("model", "data", "images_total", "evaluate", "classes", "notes")
        assert {key: found[key] for key in same} == {key: expected[key] for key in same}
    with pytest.raises(SpecError, match="load_model"):
        segdist.evaluate(segdist.load_model(folder), export, changes={"min_score": 0.5})


def test_masks_that_were_read_are_those_that_were_drawn(export: Path) -> None:
    covered = [
        int(masks.decode(i.mask).sum()) for s in segdist.read_dataset(export).samples for i in s.instances if i.mask
    ]
    assert covered
    assert min(covered) > 0
