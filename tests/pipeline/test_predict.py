"""`segdist predict`: every kind of source, every output, resume, and what is refused."""

import json
import signal
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from segdist.core import storage
from segdist.core.errors import DataError, SpecError, StorageError
from segdist.core.panels import encode_png
from segdist.core.records import Sample
from segdist.datasets.inputs import Input
from segdist.datasets.shards import write_manifest, write_shard
from segdist.formats.synthetic.scenes import draw
from segdist.pipeline import predict as module
from segdist.pipeline.known import Known
from segdist.pipeline.predict import predict_images
from segdist.pipeline.predictor import How, Predictor
from tests.engine.shipped import CLASSES, model_folder
from tests.pipeline.conftest import command, environment


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("model"), "unet_cbam"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, two of one name."""
    for k, name in enumerate(("a/one.png", "b/one.png", "two.png")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(draw("roofs", k, 64)[0][: 64 - 8 * k]))
    return tmp_path / "photos"


def run(model: str, places: list[Any], out: Path, *outputs: str, **changes: Any) -> dict[str, Any]:
    how = How(outputs, changes)
    file = predict_images(model, list(map(str, places)), str(out), how=how, storage_uri="", tracking="embedded")
    content: dict[str, Any] = json.loads(Path(file).read_text())
    return content


def read_png(file: str) -> NDArray[Any]:
    """The values of a PNG as they are stored."""
    values = cv2.imread(file, cv2.IMREAD_UNCHANGED)
    assert values is not None
    return values


def masks_of(content: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(a["image_id"], a["category_id"], a["segmentation"]["counts"]) for a in content["annotations"]]


def test_a_folder_an_archive_a_table_and_single_files_give_the_same_predictions(
    model: str, photos: Path, tmp_path: Path
) -> None:
    files = [photos / "a/one.png", photos / "b/one.png", photos / "two.png"]
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(photos))
    table = pa.table({"image": [f.read_bytes() for f in files], "file_name": [f.name for f in files]})
    pq.write_table(table, tmp_path / "photos.parquet")
    hub = pa.table({"image": [{"bytes": f.read_bytes(), "path": f.name} for f in files]})
    pq.write_table(hub, tmp_path / "hub.parquet")

    expected = run(model, files, tmp_path / "out")
    assert len(expected["annotations"]) >= 3
    sources = [photos, tmp_path / "photos.zip", tmp_path / "photos.parquet", tmp_path / "hub.parquet"]
    for k, source in enumerate(sources):
        assert masks_of(run(model, [source], tmp_path / f"out{k}")) == masks_of(expected), source
    coco = COCO(tmp_path / "out" / "predictions.json")  # pycocotools reads it
    for annotation in coco.anns.values():
        assert int(coco.annToMask(annotation).sum()) == annotation["area"]


def test_every_output_shows_what_the_coco_file_says(model: str, photos: Path, tmp_path: Path) -> None:
    content = run(model, [photos], tmp_path / "out", "overlays", "panels", "masks", "class_ids")
    coco = COCO(tmp_path / "out" / "predictions.json")
    for k, name in enumerate(("one-00001", "one-00002", "two-00003"), start=1):
        found = coco.loadAnns(coco.getAnnIds(imgIds=[k]))
        ids = read_png(str(tmp_path / "out" / "class_ids" / f"{name}.png"))
        for category, label in enumerate(CLASSES, start=1):
            drawn = read_png(str(tmp_path / "out" / "masks" / label / f"{name}.png"))
            assert set(np.unique(drawn)) <= {0, 255}
            want = np.zeros(drawn.shape, np.bool_)
            for annotation in found:
                if annotation["category_id"] == category:
                    want |= coco.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(drawn == 255, want)
            np.testing.assert_array_equal(ids == category, want)  # a class map: nothing overlaps
        assert (tmp_path / "out" / "overlays" / f"{name}.png").exists()
        assert (tmp_path / "out" / "panels" / f"{name}.jpg").exists()
    assert content["images"][1]["height"] == 56


def test_panels_show_the_truth_where_it_is_known(model: str, photos: Path, tmp_path: Path) -> None:
    square = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 40, 40], "iscrowd": 0, "area": 1600}
    square["segmentation"] = [[8, 8, 48, 8, 48, 48, 8, 48]]
    image = {"id": 1, "file_name": "two.png", "height": 48, "width": 64}
    content = {"images": [image], "annotations": [square], "categories": [{"id": 1, "name": CLASSES[0]}]}
    (photos / "annotations.json").write_text(json.dumps(content))
    out = str(tmp_path / "out")
    how = How(("panels",), {}, truth=str(photos / "annotations.json"))
    predict_images(model, [str(photos)], out, how=how, storage_uri="", tracking="embedded")
    sizes = {f.name.split("-")[0]: read_png(str(f)).shape for f in Path(out, "panels").iterdir()}
    assert sizes["one"][1] == 2 * 64, "[image | prediction]"
    assert sizes["two"][0] > 2 * 300, "[image | truth] above [prediction | error]"
    assert sizes["two"][1] > 2 * 400

    image["height"] = 47
    (photos / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"`--truth` has it as .* \(47, 64\), but it is \(48, 64\)"):
        predict_images(model, [str(photos)], out + "2", how=how, storage_uri="", tracking="embedded")


def _annotated(folder: Path, *names: str) -> str:
    """A COCO file; the box of each image begins at its number."""
    images = [{"id": n, "file_name": name, "height": 48, "width": 64} for n, name in enumerate(names, start=1)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [n, 2, 9, 9]} for n in range(1, len(names) + 1)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": " CAF\u00c9"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return str(folder / "annotations.json")


def _numbers(known: Known, *paths: str, column: str = "") -> list[int]:
    """The number of the annotated image that each path is paired with; 0 for none."""
    found = known.of([Input(path, path, "", column) for path in paths], lambda _: None)
    assert all(one is None or one[0][0] == "caf\u00e9" for one in found)
    return [round(one[0][1][0]) if one else 0 for one in found]


@pytest.mark.parametrize("column", ["", "image"])
def test_boxes_belong_to_the_image_with_the_longest_common_ending(tmp_path: Path, column: str) -> None:
    names = ("cam1/0001.png", "cam2/0001.png", "/elsewhere/cam2/0002.png", "val\\0003.png", "alone.png")
    known = Known.boxes(_annotated(tmp_path, *names), ["caf\u00e9"])
    assert _numbers(known, "/a/cam1/0001.png", "/a/cam2/0001.png", column=column) == [1, 2]
    assert _numbers(known, "/a/photos.zip!/cam2/0001.png", "s3://b/cam2/0002.png", column=column) == [2, 3]
    assert _numbers(known, "C:\\x\\CAM1\\0001.PNG", "/test/a/val/0003.png", "/test/alone.png") == [1, 4, 5]
    assert _numbers(known, "/a/alone.png", "/a/unknown.png") == [5, 0]
    assert _numbers(known, "/a/cam1/0001.png", "/a/cam1/0001.png") == [1, 1], "the same image twice"


@pytest.mark.parametrize(
    ("names", "paths", "said"),
    [
        (("cam1/1.png", "cam2/1.png"), ("/a/cam3/1.png",), r"/a/cam3/1\.png: cam1/1\.png, cam2/1\.png"),
        (("1.png",), ("/a/cam1/1.png", "/a/cam2/1.png"), r"2 images no better.*/a/cam2/1\.png: 1\.png"),
        (("cam1/1.png",), ("/a/cam1/1.png", "/b/cam1/1.png"), r"/b/cam1/1\.png: cam1/1\.png"),
    ],
)
def test_images_and_annotations_that_fit_equally_well_are_named(
    tmp_path: Path, names: tuple[str, ...], paths: tuple[str, ...], said: str
) -> None:
    known = Known.boxes(_annotated(tmp_path, *names), ["caf\u00e9"])
    with pytest.raises(DataError, match=rf"(?s)`--boxes` fits.*{said}"):
        _numbers(known, *paths)


def test_rows_of_one_name_are_two_images(tmp_path: Path) -> None:
    known = Known.boxes(_annotated(tmp_path, "1.png"), ["caf\u00e9"])
    rows = [Input(f"t.parquet#row={n}", "1.png", "", "image") for n in range(2)]
    with pytest.raises(DataError, match=r"t\.parquet#row=1: 1\.png"):
        known.of(rows, lambda _: None)
    assert known.of(rows[:1], lambda _: None) == [[["caf\u00e9", [1, 2, 10, 11]]]]


def test_the_image_that_the_annotations_found_is_theirs_whatever_they_call_it(photos: Path) -> None:
    for name in ("train", "valid"):
        (photos / name).mkdir()
        (photos / name / "_annotations.coco.json").write_bytes(Path(_annotated(photos, "1.png")).read_bytes())
        Image.new("RGB", (64, 48)).save(photos / name / "1.png")
    (photos / "annotations.json").unlink()
    known = Known.truth(str(photos), [])
    paths = [str(photos / "train" / "1.png"), str(photos / "valid" / "1.png")]
    found = known.of([Input(path, path, "", "") for path in paths], lambda _: None)
    assert [one["image_id"] for one in found] == ["train/1.png", "val/1.png"]


def test_what_a_model_wrote_is_kept_as_text(photos: Path, tmp_path: Path) -> None:
    writer = str(model_folder(tmp_path / "writer", "paligemma"))
    content = run(writer, [photos / "two.png"], tmp_path / "out", "text")
    (text,) = [f.read_text() for f in (tmp_path / "out" / "text").iterdir()]
    asked = text.splitlines()
    assert [line.partition(" -> ")[0] for line in asked] == [f"segment {label}" for label in CLASSES], text
    assert sum(line.count("<loc") for line in asked) >= 4 * len(content["annotations"])


def test_a_run_that_was_killed_goes_on_and_predicts_nothing_twice(
    model: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IMAGES_PER_PART", 1)
    whole = run(model, [photos], tmp_path / "whole")
    done: list[str] = []
    honest = Predictor.work

    def killed_after_two(self: Predictor, part: Any) -> str:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part["target"])
        return honest(self, part)

    monkeypatch.setattr(Predictor, "work", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        run(model, [photos], tmp_path / "out")
    assert not (tmp_path / "out" / "predictions.json").exists()

    again: list[str] = []

    def counted(self: Predictor, part: Any) -> str:
        again.append(part["target"])
        return honest(self, part)

    monkeypatch.setattr(Predictor, "work", counted)
    resumed = run(model, [photos], tmp_path / "out")
    assert len(again) == 1
    assert not set(again) & set(done)
    assert resumed == whole


def test_a_folder_of_other_settings_is_not_mixed_with_new_predictions(model: str, photos: Path, tmp_path: Path) -> None:
    run(model, [photos], tmp_path / "out")
    with pytest.raises(StorageError, match="with other settings"):
        run(model, [photos], tmp_path / "out", min_score=0.9)


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_there(
    model: str, photos: Path, tmp_path: Path
) -> None:
    (photos / "cut.png").write_bytes((photos / "two.png").read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot be read: 1 of 4 images[\s\S]*cut\.png"):
        run(model, [photos], tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 3


def test_what_is_not_there_or_unknown_is_an_error_that_names_it(model: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no .*nowhere"):
        run(model, [tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(SpecError, match="Did you mean `overlays`"):
        run(model, [photos], tmp_path / "out", "overlay")
    pq.write_table(pa.table({"text": ["no image"]}), tmp_path / "texts.parquet")
    with pytest.raises(DataError, match="column of encoded images"):
        run(model, [tmp_path / "texts.parquet"], tmp_path / "out")


def test_tiles_are_asked_for_by_a_key_of_evaluate(model: str, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(encode_png(draw("roofs", 1, 150)[0]))
    tiled = run(model, [tmp_path / "large.png"], tmp_path / "tiled", tile={"size": 64, "overlap": 0.25})
    whole = run(model, [tmp_path / "large.png"], tmp_path / "whole")
    assert masks_of(tiled) != masks_of(whole)
    assert tiled["images"][0]["width"] == 150


def test_geojson_lies_where_the_geotiff_says_and_has_the_area_of_the_mask(model: str, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.warp import transform_geom

    image = draw("roofs", 2, 64)[0]
    transform = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)  # half a metre a pixel, UTM 32 north
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=64, height=64, count=3, dtype="uint8", crs="EPSG:32632",
        transform=transform,
    ) as file:  # fmt: skip
        file.write(image.transpose(2, 0, 1))
    content = run(model, [tmp_path / "a.tif"], tmp_path / "out", "geojson")
    (written,) = (tmp_path / "out" / "geojson").iterdir()
    features = json.loads(written.read_text())["features"]
    assert len(features) == len(content["annotations"])
    for feature, annotation in zip(features, content["annotations"], strict=True):
        rings = [ring for polygon in feature["geometry"]["coordinates"] for ring in polygon]
        assert all(
            8.9 < x < 9.1 and 48.7 < y < 48.8 for ring in rings for x, y in ring
        )  # 9 degrees east is UTM 32's middle
        back = transform_geom("EPSG:4326", "EPSG:32632", feature["geometry"])
        square_metres = abs(sum(_signed_area(ring) for polygon in back["coordinates"] for ring in polygon))
        assert square_metres == pytest.approx(annotation["area"] * 0.25, rel=1e-3)
        assert feature["properties"]["coordinates"] == "WGS84"


def test_what_is_not_read_is_counted_and_named_and_the_rest_is_predicted(
    model: str, photos: Path, tmp_path: Path
) -> None:
    (photos / "b" / "icon.ico").write_bytes(b"\0\0\1\0")
    (photos / "photo").write_bytes((photos / "two.png").read_bytes())
    table = pa.table({"image": [(photos / "two.png").read_bytes()] * 2, "file_name": ["a\0b.png", "x" * 10**5]})
    pq.write_table(table, photos / "t.parquet")
    told: list[str] = []

    def predict(out: str) -> None:
        how = How(("overlays",), {})
        places = [str(photos)]
        predict_images(
            model, places, str(tmp_path / out), how=how, storage_uri="", tracking="embedded", say=told.append
        )

    predict("out")
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 5
    summary = told[-1].splitlines()
    assert summary[0] == "7 files, 5 read, 2 named:"
    assert summary[1].endswith("icon.ico: ICO is not read; convert it to PNG, TIFF or JPEG")
    (photos / "c.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"c\.png"):
        predict("broken")
    assert told[-1].startswith("8 files, 5 read, 3 named:")
    assert len(json.loads((tmp_path / "broken" / "predictions.json").read_text())["images"]) == 5


def _signed_area(ring: list[tuple[float, float]]) -> float:
    """The shoelace formula in float64; holes run the other way round and so subtract."""
    points = np.array(ring) - np.array(ring[0])
    x, y = points.T
    return 0.5 * float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))


def data_set(root: str, photos: Path) -> str:
    """The photos as a data set of segdist, in two shards."""
    files = sorted(photos.rglob("*.png"))
    rows = [(Sample(str(f.relative_to(photos)), str(f), (64, 64)), f.read_bytes()) for f in files]
    shards = [write_shard(storage.join(root, f"{k:05d}.parquet"), part) for k, part in enumerate((rows[:2], rows[2:]))]
    write_manifest(root, "dataset", CLASSES, shards)
    return root


def test_a_data_set_of_segdist_gives_the_predictions_of_its_files(model: str, photos: Path, tmp_path: Path) -> None:
    place = data_set(str(tmp_path / "data"), photos)
    expected = run(model, [photos], tmp_path / "expected")
    found = run(model, [place], tmp_path / "found", "class_ids")
    assert masks_of(found) == masks_of(expected)
    names = {f.name for f in (tmp_path / "found" / "class_ids").iterdir()}
    assert names == {"one-00001.png", "one-00002.png", "two-00003.png"}
    assert len(found["images"]) == 3


@pytest.mark.slow
def test_an_object_store_gives_the_same_from_files_tables_archives_and_data_sets(
    model: str, photos: Path, tmp_path: Path, s3_bucket: str
) -> None:
    here = run(model, [photos], tmp_path / "here")
    files = sorted(photos.rglob("*.png"))
    pq.write_table(pa.table({"image": [f.read_bytes() for f in files]}), tmp_path / "table.parquet")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(photos))
    for file in (tmp_path / "table.parquet", tmp_path / "photos.zip"):
        storage.upload(file, f"{s3_bucket}/places/{file.name}")
    for file in files:
        storage.write_atomic(f"{s3_bucket}/places/files/{file.relative_to(photos)}", file.read_bytes())
    places = [f"{s3_bucket}/places/{name}" for name in ("table.parquet", "photos.zip", "files")]
    places.append(data_set(f"{s3_bucket}/places/data", photos))
    for k, place in enumerate(places):
        out = f"{s3_bucket}/places-out/{k}"
        how = How(("masks",))
        where = predict_images(model, [place], out, how=how, actors=1, storage_uri="", tracking="embedded")
        assert masks_of(storage.read_json(where)) == masks_of(here), place
        assert len(storage.find(f"{out}/masks/{CLASSES[0]}")) == 3


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_where_it_was(model: str, tmp_path: Path) -> None:
    for k in range(160):
        file = tmp_path / "photos" / f"{k:03d}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encode_png(draw("roofs", k, 64)[0]))

    def words(out: str) -> list[str]:
        return command("predict", model, tmp_path / "photos", tmp_path / out, "--actors", "1", "--write", "class_ids")

    whole = subprocess.run(words("whole"), capture_output=True, text=True, check=True, env=environment(tmp_path))
    parts = len(list((tmp_path / "whole" / "parts").iterdir()))
    assert parts == 160 / module.IMAGES_PER_PART

    driver = subprocess.Popen(words("out"), env=environment(tmp_path), stderr=subprocess.DEVNULL)
    while driver.poll() is None and not any((tmp_path / "out" / "parts").glob("*.json")):
        time.sleep(0.001)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL, "it was done before it was killed: predict more images"
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "out" / "parts").glob("*.json")}
    assert 0 < len(before) < parts
    assert not (tmp_path / "out" / "predictions.json").exists()

    again = subprocess.run(words("out"), capture_output=True, text=True, check=True, env=environment(tmp_path))
    assert f"done already: {len(before)} of {parts} parts" in again.stderr, whole.stderr
    for name, stamp in before.items():
        assert (tmp_path / "out" / "parts" / name).stat().st_mtime_ns == stamp, "what is done is not done again"
    contents = [json.loads((tmp_path / out / "predictions.json").read_text()) for out in ("whole", "out")]
    assert contents[0] == contents[1]
    drawn = [{f.name: f.read_bytes() for f in (tmp_path / out / "class_ids").iterdir()} for out in ("whole", "out")]
    assert len(drawn[0]) == 160
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_actors_of_ray_give_the_same_as_this_process_also_in_an_object_store(
    model: str, photos: Path, tmp_path: Path, s3_bucket: str, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IMAGES_PER_PART", 1)
    here = run(model, [photos], tmp_path / "here")
    for file in photos.rglob("*.png"):
        storage.write_atomic(f"{s3_bucket}/photos/{file.relative_to(photos)}", file.read_bytes())
    how = How(("class_ids",))
    where = predict_images(
        model, [f"{s3_bucket}/photos"], f"{s3_bucket}/out", how=how, actors=2, storage_uri="", tracking="embedded"
    )
    assert where == f"{s3_bucket}/out/predictions.json"
    assert masks_of(storage.read_json(where)) == masks_of(here)
    assert len(storage.find(f"{s3_bucket}/out/class_ids")) == 3
