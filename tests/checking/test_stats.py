"""Statistics and galleries of a small COCO data set, against what was drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segdist.checking.histograms import Histogram, Scale
from segdist.checking.stats import ASPECT, brightness, statistics
from segdist.cli import app
from segdist.core.errors import DataError
from segdist.formats.coco import Format, Options
from segdist.pages.gallery import Wanted, choose, outline, write_gallery
from tests.browser import answers, needs_chromium


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of 40 x 80: two of training with a wide and a tall object each, two of validation, one bare."""
    for split, greys in (("train", (0, 100)), ("valid", (200, 255))):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (tmp_path / "data" / split).mkdir(parents=True)
        for n, grey in enumerate(greys):
            name = f"{split}{n}.png"
            Image.fromarray(np.full((40, 80, 3), grey, np.uint8)).save(tmp_path / "data" / split / name)
            images.append({"id": n, "file_name": name, "height": 40, "width": 80})
            if grey == 255:
                continue
            for k, (x, y, w, h) in enumerate(((2, 2, 60, 6), (70, 10, 5, 25))):
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                entry = {"id": 10 * n + k, "image_id": n, "category_id": k + 1, "bbox": [x, y, w, h], "iscrowd": 0}
                annotations.append({**entry, "area": w * h, "segmentation": [polygon]})
        categories = [{"id": 1, "name": "seam"}, {"id": 2, "name": "<crack>"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "data" / split / "_annotations.coco.json").write_text(json.dumps(content))
    return tmp_path / "data"


def source(folder: Path) -> Format:
    return Format(Options(path=str(folder)))


def test_what_was_drawn_is_counted_by_split(folder: Path) -> None:
    found = statistics(source(folder)).as_json()
    assert (found["images"], found["instances"]) == (4, 6)
    assert found["classes"] == {"<crack>": 3, "seam": 3}
    assert found["splits"]["val"]["empty_images"] == 1
    histograms = found["histograms"]
    assert histograms["objects"]["counts"] == {"train": [0, 0, 2, *[0] * 6], "val": [1, 0, 1, *[0] * 6]}
    aspect = histograms["aspect"]["counts"]["train"]
    assert {label: n for label, n in zip(ASPECT.labels, aspect, strict=True) if n} == {"1:8-1:4": 2, ">8:1": 2}
    sizes = histograms["size"]["counts"]["train"]  # sqrt(360) = 19, sqrt(125) = 11
    assert dict(zip(histograms["size"]["edges"], sizes, strict=False)) | {8: 2, 16: 2} == dict(
        zip(histograms["size"]["edges"], sizes, strict=False)
    )
    assert histograms["brightness"]["counts"]["train"][0] == histograms["brightness"]["counts"]["train"][6] == 1
    assert histograms["brightness"]["counts"]["val"][15] == 1
    assert found["not_counted"] == []


def test_brightness_weighs_the_channels_as_rec_601_does() -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    luma = np.asarray(Image.fromarray(image_HWC).convert("L"), np.float64)  # Pillow's L is Rec. 601, rounded
    assert brightness(image_HWC) == pytest.approx(luma.mean(), abs=0.5)


def test_an_image_that_cannot_be_opened_is_named_and_the_others_are_counted(folder: Path) -> None:
    (folder / "train" / "train1.png").write_bytes(b"no image")
    found = statistics(source(folder))
    assert [f.image for f in found.findings] == ["train/train1.png"]
    assert sum(found.histograms["brightness"].totals()) == 3


def test_histograms_of_pieces_add_up_and_outliers_stay_in_the_outer_bins() -> None:
    scale = Scale("t", "u", (0, 1, 2), ("low", "high"))
    a, b = Histogram(scale), Histogram(scale)
    for value in (-5, 0.5, 1):
        a.add("train", value)
    b.add("val", 99)
    a.add_all(b)
    assert (a.column("train"), a.column("val"), a.totals()) == ([2, 1], [0, 1], [2, 2])


def test_edges_that_do_not_match_their_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n \+ 1 rising edges"):
        Scale("t", "u", (0, 1, 2), ("one",))


def test_stats_prints_tables_json_and_a_page_that_needs_nothing_else(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "stats.html"
    shown = CliRunner().invoke(app, ["data", "stats", str(folder), "--html", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "4 images, 6 instances, 2 classes" in shown.output
    assert "Brightness of images" in shown.output
    text = page.read_text()
    assert "&lt;crack&gt;" in text
    assert "<crack>" not in text
    assert "http" not in text.replace("http://www.w3.org", "")
    machine = CliRunner().invoke(app, ["data", "stats", str(folder), "--json", "--no-images"])
    assert sum(json.loads(machine.output)["histograms"]["brightness"]["counts"]["train"]) == 0


def test_the_gallery_shows_every_class_and_split_and_draws_masks(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "gallery.html"
    shown, findings = write_gallery(str(page), source(folder), Wanted(), title="a <b>")
    text = page.read_text()
    assert (shown, findings) == (4, [])
    assert text.count("<path class=") == 6
    assert text.count("data:image/jpeg;base64,") == 4
    assert 'data-split="val" data-classes="none"' in text
    assert "<crack>" not in text.split("<script>")[0]
    assert "a &lt;b&gt;" in text


def test_the_gallery_chooses_by_class_split_and_seed(folder: Path, tmp_path: Path) -> None:
    every, seen = choose(source(folder), Wanted(count=3, seed=1))
    assert len(every) == 3
    assert {s.split for s in every} == {"train", "val"}
    assert seen == {"seam": 3, "<crack>": 3}
    assert every == choose(source(folder), Wanted(count=3, seed=1))[0]
    only, _ = choose(source(folder), Wanted(classes=("seam",), splits=("val",)))
    assert [s.image_id for s in only] == ["val/valid0.png"]
    with pytest.raises(DataError, match="Classes found: <crack>, seam"):
        write_gallery(str(tmp_path / "none.html"), source(folder), Wanted(classes=("saem",)), title="t")


CLICKS = """
const shown = () => [...document.querySelectorAll("figure:not(.hidden)")].map((f) => f.dataset.split);
const paths = () => [...document.querySelectorAll("figure:not(.hidden) path")];
const drawn = () => paths().filter((p) => p.style.display !== "none").length;
const button = (text) => [...document.querySelectorAll(".tools button")].find((b) => b.textContent.startsWith(text));
const look = () => [shown(), drawn(), document.getElementById("shown").textContent];
const found = {all: look()};
button("val").click(); found.val = look();
button("val").click(); button("seam").click(); found.seam = look();
button("seam").click(); button("without").click(); found.without = look();
button("without").click(); found.back = look();
button("masks").click(); found.bare = document.body.classList.contains("bare");
answer(found);
"""


@pytest.mark.slow
@needs_chromium
def test_in_a_browser_the_gallery_filters_by_split_class_and_emptiness(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "gallery.html"
    write_gallery(str(page), source(folder), Wanted(), title="roofs")
    found = answers(page, CLICKS, tmp_path)
    splits, drawn, said = found["all"]
    assert (len(splits), drawn, said) == (4, 6, "4 of 4 pictures")
    assert set(found["val"][0]) == {"val"}
    assert found["val"][2] == f"{splits.count('val')} of 4 pictures"
    assert found["seam"][1] == 3, "only the masks of the chosen class are drawn"
    assert found["without"][:2] == [["val"], 0]
    assert found["back"] == found["all"]
    assert found["bare"]
    assert found["errors"] == []


def test_the_outline_of_a_ring_has_a_loop_for_its_hole() -> None:
    mask_HW = np.zeros((20, 20), np.bool_)
    mask_HW[2:18, 2:18] = True
    mask_HW[6:14, 6:14] = False
    assert outline(mask_HW).count("M") == 2
    assert outline(np.zeros((4, 4), np.bool_)) == ""
