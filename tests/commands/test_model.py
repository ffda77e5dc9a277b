"""`segdist.load_model`: images of any kind in, the predictions of the command line out; what is refused, and how."""

import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import segdist
from segdist.core import masks
from segdist.core.errors import DataError, SegdistError, SpecError
from segdist.core.panels import overlay
from segdist.core.plugins import ImageHWC
from segdist.formats.synthetic.scenes import draw
from segdist.pipeline.predict import predict_images
from segdist.pipeline.predictor import How
from segdist.reading import images
from tests.engine.shipped import CLASSES, model_folder

BOX = (4.0, 4.0, 40.0, 40.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model") / "unet", "unet_cbam")


@pytest.fixture(scope="module")
def model(folder: Path) -> segdist.Model:
    return segdist.load_model(folder)


@pytest.fixture(scope="module")
def promptable(tmp_path_factory: pytest.TempPathFactory) -> segdist.Model:
    return segdist.load_model(model_folder(tmp_path_factory.mktemp("model") / "sam", "sam", prompt="box"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    Image.fromarray(roofs()).save(file)
    return file


def roofs(seed: int = 1) -> ImageHWC:
    return draw("roofs", seed, 64)[0][:48]


def test_a_file_a_picture_and_an_array_give_what_the_command_line_gives(
    model: segdist.Model, folder: Path, photo: Path, tmp_path: Path
) -> None:
    out = predict_images(str(folder), [str(photo)], str(tmp_path / "out"), how=How(()), storage_uri="", tracking="")
    expected = json.loads(Path(out).read_text())
    assert expected["annotations"]
    for image in (photo, str(photo), Image.open(photo), roofs()):
        found = model.predict(image).to_coco()
        assert found["annotations"] == expected["annotations"]
        assert found["categories"] == expected["categories"]
        assert found["images"][0] | {"file_name": ""} == expected["images"][0] | {"file_name": ""}
    assert [model.predict(image).image_id for image in (photo, Image.open(photo), roofs())] == [
        str(photo),
        str(photo),
        "image-0",
    ]


def test_of_several_images_there_are_as_many_predictions_in_order(model: segdist.Model, photo: Path) -> None:
    several: list[Any] = [photo, roofs(2), Image.fromarray(roofs(3))]
    found, stacked = model.predict(several), cast("Any", np.stack([roofs(2), roofs(3)]))
    assert [p.image_id for p in found] == [str(photo), "image-1", "image-2"]
    assert [p.instances for p in found] == [model.predict(image).instances for image in several]
    assert [p.instances for p in model.predict(stacked)] == [p.instances for p in found[1:]]
    assert model.predict([]) == []


def test_of_several_images_one_is_in_memory_at_a_time(model: segdist.Model) -> None:
    alive: list[weakref.ref[ImageHWC]] = []

    def drawn() -> Iterator[ImageHWC]:
        for seed in range(4):
            gc.collect()
            assert sum(one() is not None for one in alive) <= 1
            image = roofs(seed).copy()
            alive.append(weakref.ref(image))
            yield image
            del image

    assert len(model.predict(drawn())) == 4
    assert len(alive) == 4


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8, 3), np.float32), "Scale it to 0..255"),
        (np.zeros((8, 8), np.uint8), "make three channels"),
        (np.zeros((3, 8, 9), np.uint8), "Put the channels last"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)), "178,956,970 pixels"),
        (None, "NoneType"),
        (b"\x89PNG", "bytes"),
        (3, "int"),
        ([[1, 2], [3, 4]], "list"),
        ("no/such/file.png", "no/such/file.png"),
        (".", "segdist predict"),
    ],
)
def test_what_is_no_image_is_refused_with_the_fix(model: segdist.Model, image: Any, words: str) -> None:
    with pytest.raises(SegdistError, match=words):
        model.predict(image)


def test_a_broken_file_is_named_as_a_path_and_as_a_picture(model: segdist.Model, photo: Path) -> None:
    whole = photo.read_bytes()
    photo.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"photo\.png"):
        model.predict(photo)
    with Image.open(photo) as picture, pytest.raises(DataError, match=r"photo\.png"):
        model.predict(picture)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr", "I;16", "F"])
def test_a_picture_of_any_kind_is_read_as_its_file_is(mode: str, tmp_path: Path) -> None:
    rgb = Image.fromarray(roofs())
    grey = np.asarray(rgb.convert("L"))
    made: dict[str, Any] = {"I;16": grey.astype(np.uint16) * 16, "F": grey.astype(np.float32) / 255}
    picture = Image.fromarray(made[mode]) if mode in made else rgb.convert(mode)
    assert picture.mode == mode
    file = tmp_path / "picture.tif"
    picture.save(file)
    read = images.decode(file.read_bytes()).image_HWC
    assert np.array_equal(images.from_pillow(Image.open(file)).image_HWC, read)
    assert np.array_equal(images.from_pillow(picture).image_HWC, read)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_is_turned_upright_as_its_file_is(orientation: int, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(roofs()).save(file, exif=exif)
    read = images.decode(file.read_bytes()).image_HWC
    assert read.shape == ((64, 48, 3) if orientation > 4 else (48, 64, 3))
    assert np.array_equal(images.from_pillow(Image.open(file)).image_HWC, read)


def test_a_box_is_shown_as_a_prompt_a_mapping_or_an_array(promptable: segdist.Model) -> None:
    assert promptable.prompts == {"box", "point"}
    asked: list[Any] = [
        segdist.Prompt(boxes_xyxy=(BOX,), labels=("tree",)),
        {"boxes_xyxy": [BOX], "labels": ["tree"]},
        {"boxes_xyxy": np.array([BOX]), "labels": ("tree",)},
    ]
    found = [promptable.predict(roofs(), prompts=one).instances for one in asked]
    assert [i.label for i in found[0]] == ["tree"]
    assert found[0] == found[1] == found[2]
    assert [p.instances for p in promptable.predict([roofs()] * 3, prompts=asked)] == found


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (None, "segments what it is shown"),
        ({"boxes_xyxy": [(40, 4, 4, 40)]}, "x1 < x2"),
        ({"boxes_xyxy": [(0, 0, 1e9, 9)]}, "x2 <= 64"),
        ({"boxes": [BOX]}, "boxes"),
        ({"boxes_xyxy": [BOX], "labels": ["car"]}, "car"),
        ({"text": "a roof"}, "these kinds: box, point"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused(promptable: segdist.Model, prompts: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        promptable.predict(roofs(), prompts=prompts)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"boxes_xyxy": [BOX]}, "a prompt of its own"),
        ([{"boxes_xyxy": [BOX]}], "fewer prompts"),
        ([{"boxes_xyxy": [BOX]}] * 3, "more prompts"),
    ],
)
def test_each_of_several_images_has_a_prompt(promptable: segdist.Model, prompts: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        promptable.predict([roofs(), roofs()], prompts=prompts)


def test_a_model_that_takes_no_prompt_refuses_one(model: segdist.Model) -> None:
    with pytest.raises(DataError, match="none; but got box"):
        model.predict(roofs(), prompts={"boxes_xyxy": [BOX]})


def test_keys_of_evaluate_are_changed_and_wrong_ones_named(model: segdist.Model, folder: Path) -> None:
    assert model.predict(roofs()).instances
    strict = segdist.load_model(folder, changes={"min_score": 1.0})
    assert not strict.predict(roofs()).instances
    tiled = segdist.load_model(folder, changes={"tile": {"size": 32}})
    assert tiled.predict(roofs()).size_hw == (48, 64)
    for changes, words in (
        ({"min_scor": 1}, "Did you mean `min_score`"),
        ({"min_score": "high"}, r"evaluate\.min_score"),
        ({"post": 3}, r"evaluate\.post"),
        ({"tile": {"sise": 3}}, r"evaluate\.tile"),
    ):
        with pytest.raises(SpecError, match=words):
            segdist.load_model(folder, changes=changes)


def test_a_folder_without_a_model_is_the_error_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(segdist.WeightsError, match=str(tmp_path)):
        segdist.load_model(tmp_path)


def test_a_prediction_as_coco_is_read_by_pycocotools(model: segdist.Model, tmp_path: Path) -> None:
    found = model.predict(roofs())
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(found.to_coco()))
    coco = COCO(file)
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "roof"}, {"id": 2, "name": "tree"}]
    (image,) = coco.loadImgs(coco.getImgIds())
    assert (image["height"], image["width"]) == (48, 64)
    read = coco.loadAnns(coco.getAnnIds())
    assert len(read) == len(found.instances) > 0
    for entry, instance in zip(read, found.instances, strict=True):
        assert instance.mask is not None
        assert np.array_equal(coco.annToMask(entry) > 0, masks.decode(instance.mask))
        assert entry["score"] == round(instance.score, 5)
        assert CLASSES[entry["category_id"] - 1] == instance.label


def test_a_prediction_in_supervision_has_its_pixels_classes_and_scores(model: segdist.Model) -> None:
    supervision = pytest.importorskip("supervision")
    found = model.predict(roofs())
    no_mask = segdist.Instance("tree", None, (1, 2, 3, 4), 0.5)
    empty = segdist.Instance("roof", masks.encode(np.zeros((48, 64))), (0, 0, 0, 0), 0.25)
    hole = masks.encode(np.pad(np.pad(np.zeros((4, 4)), 3, constant_values=1), ((10, 28), (20, 34))))
    corner = segdist.Instance("roof", hole, hole.box_xyxy, 0.75)
    instances = (*found.instances, no_mask, empty, corner)
    whole = segdist.Prediction("x", instances, size_hw=(48, 64), classes=CLASSES)
    detections: Any = whole.to_supervision()
    assert isinstance(detections, supervision.Detections)
    expected = [masks.decode(i.mask) if i.mask else np.zeros((48, 64), bool) for i in instances]
    assert np.array_equal(detections.mask.to_dense(), np.stack(expected))
    assert detections.xyxy.tolist() == [list(i.box_xyxy) for i in instances]
    assert [CLASSES[k] for k in detections.class_id] == [i.label for i in instances] == list(detections["class_name"])
    assert np.allclose(detections.confidence, [i.score for i in instances])
    drawn = supervision.MaskAnnotator().annotate(roofs().copy(), detections)
    assert (drawn != roofs()).any(axis=2)[expected[-1]].any()
    none: Any = segdist.Prediction("x", (), size_hw=(48, 64), classes=CLASSES).to_supervision()
    assert len(none) == 0
    assert none.mask.shape == (0, 48, 64)


def test_without_supervision_the_error_says_what_to_install(
    model: segdist.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(SpecError, match=r"pip install 'segdist\[supervision\]'"):
        model.predict(roofs()).to_supervision()


def test_a_prediction_is_drawn_on_its_own_image_only(model: segdist.Model, photo: Path) -> None:
    found = model.predict(photo)
    drawn = segdist.draw(photo, found)
    assert np.array_equal(np.asarray(drawn), overlay(roofs(), found.instances, CLASSES))
    with pytest.raises(DataError, match=r"\(48, 64\), but got \(64, 64\)"):
        segdist.draw(draw("roofs", 1, 64)[0], found)


def test_run_lengths_of_a_prediction_are_those_of_pycocotools(model: segdist.Model) -> None:
    for entry, instance in zip(
        model.predict(roofs()).to_coco()["annotations"], model.predict(roofs()).instances, strict=True
    ):
        assert instance.mask is not None
        assert isinstance(entry["segmentation"], dict)
        assert entry["area"] == float(coco_mask.area({**entry["segmentation"], "counts": instance.mask.counts}))
