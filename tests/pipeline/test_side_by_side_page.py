"""The page of all trials beside each other, used in a browser: zoomed, sorted, asked for what drives a difference."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdist.core.panels import ERRORS, colour
from segdist.pages import Leaderboard
from segdist.pages.side_by_side import Column, ShownImages, Written, write_side_by_side
from segdist.pages.side_by_side.label_maps import true_map
from tests.browser import answers, dom, needs_chromium
from tests.pages.conftest import board, filled, storage, tracker
from tests.pages.fake import CLASSES
from tests.pages.test_side_by_side import columns, images, page_data

__all__ = ["board", "filled", "images", "storage", "tracker"]
pytestmark = [pytest.mark.slow, needs_chromium]  # a browser

FIRST = """
const until = async (found) => { while (!found()) await new Promise((done) => setTimeout(done, 20)); return found(); };
const all = (selector) => [...document.querySelectorAll(selector)];
const byHeight = (p, q) => p.offsetTop - q.offsetTop;
const rowsShown = () => all(".row").sort(byHeight).map((row) => row.getAttribute("aria-label"));
const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
window.requestAnimationFrame = (draw) => setTimeout(draw, 16); // a browser that only dumps its page draws no frames
const settled = () => new Promise((done) => setTimeout(done, 400));
const cellOf = (place, trial) => all(".row canvas").find((one) => one.place === place && one.trial === trial);
const pixelsAt = (canvas, points) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const at = ([x, y]) => pen.getImageData(Math.floor(x * copy.width), Math.floor(y * copy.height), 1, 1);
  return points.map((point) => [...at(point).data].slice(0, 3));
};
"""


@pytest.fixture
def written(board: Leaderboard, images: ShownImages, tmp_path: Path) -> tuple[Written, list[Column]]:
    shown = columns(board, images)
    return write_side_by_side(str(tmp_path / "page"), board, shown, images, metric="iou"), shown


def asked(written: Written, script: str) -> dict[str, Any]:
    """What a script finds on the page, without the policy that forbids it, and with a look at pixels of files."""
    page = Path(written.uri)
    text, amount = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    assert amount == 1
    free = page.with_name("free.html")
    free.write_text(text, "utf-8")
    wrapped = f"(async () => {{ {FIRST} await until(() => document.body.dataset.drawn); {script} }})();"
    flags = ("--allow-file-access-from-files", "--virtual-time-budget=60000", "--window-size=1400,900")
    found = answers(free, wrapped, page.parent, *flags)
    assert found.pop("errors") == []
    return found


def test_images_are_sorted_by_disagreement_and_by_what_drives_the_interval_whose_bar_is_clicked(
    written: tuple[Written, list[Column]],
) -> None:
    page, shown = written
    data = page_data(Path(page.uri).read_text("utf-8"))
    chosen = len(shown) - 2
    number = shown[chosen].trial.number
    found = asked(
        page,
        f"""
        const first = rowsShown();
        document.querySelector('[data-pair="{number}"]').focus();
        document.activeElement.click();
        await settled();
        const bar = document.activeElement;
        const [label, pressed] = ["aria-label", "aria-pressed"].map((name) => bar.getAttribute(name));
        answer({{ first, then: rowsShown(), link: location.hash, label, pressed }});
        """,
    )
    by_disagreement = sorted(data["images"], key=lambda one: -one["disagreement"])
    assert found["first"] == [one["id"] for one in by_disagreement]
    a, b = (shown[k].contributions for k in (0, chosen))
    done = np.abs(a.influence_N - b.influence_N)[[0, 2, 4]]
    assert found["then"] == [data["images"][k]["id"] for k in np.argsort(-done)]
    assert found["link"] == f"#sort=drives&pair={shown[0].trial.number},{number}"
    assert found["pressed"] == "true"
    low, high = (f"{v:+.3f}".replace("-", "\u2212") for v in np.percentile(a.resampled_R - b.resampled_R, (2.5, 97.5)))
    assert f"95 % interval {low} to {high}" in found["label"]


def test_layers_show_what_was_found_and_what_is_wrong_pixel_by_pixel(
    written: tuple[Written, list[Column]], images: ShownImages
) -> None:
    page, shown = written
    rng = np.random.default_rng(0)
    ys, xs = rng.integers(2, 80, 300), rng.integers(2, 126, 300)  # above the number
    points = [[(x + 0.5) / 128, (y + 0.5) / 96] for y, x in zip(ys, xs, strict=True)]
    found = asked(
        page,
        f"""
        const points = {json.dumps(points)};
        for (const key of ["1", "2"]) press(key);
        change({{ size: 256 }});
        await settled();
        const predicted = pixelsAt(cellOf(0, 0), points);
        for (const key of ["3", "4"]) press(key);
        await settled();
        const wrong = pixelsAt(cellOf(0, 0), points), legend = element("legend").innerText;
        answer({{ predicted, wrong, legend, width: cellOf(0, 0).width }});
        """,
    )
    assert found["width"] == 256, "two pixels of the canvas are one of the map"
    truth = true_map(images.rows[0][0].instances, (96, 128), CLASSES).decoded()[ys, xs]
    guess = shown[0].maps[0].decoded()[ys, xs]
    assert len({*zip(truth.tolist(), guess.tolist(), strict=True)}) >= 3
    for pixel, code in zip(found["predicted"], guess.tolist(), strict=True):
        dark = np.array([0x4A, 0x4D, 0x52])
        assert pixel == pytest.approx(dark if not code else (dark + colour(code - 1)) / 2, abs=2)
    for pixel, right, code in zip(found["wrong"], truth.tolist(), guess.tolist(), strict=True):
        mistake = "missed" if not code else "invented" if not right else "taken for another class"
        expected = 0.15 * 0xD8 + 0.85 * np.array(ERRORS[mistake]) if right != code else [0xD8] * 3
        assert pixel == pytest.approx(expected, abs=2)
    assert all(name in found["legend"] for name in ("missed", "invented", *CLASSES))


def test_all_images_are_zoomed_together_and_a_link_brings_the_view_back(written: tuple[Written, list[Column]]) -> None:
    page, shown = written
    data = page_data(Path(page.uri).read_text("utf-8"))
    name = data["images"][1]["id"]
    found = asked(
        page,
        """
        press("+"); press("+");
        await settled();
        const zoomed = element("zoomed").textContent, link = location.hash;
        const scaleOf = (canvas) => placed(canvas, page.images[canvas.place].size).scale;
        const alike = new Set(all(".row canvas").map(scaleOf)).size;
        all('[data-image="1"]')[0].click();
        await settled();
        const single = location.hash, canvases = all("#cells canvas").length, which = element("which").textContent;
        press("Escape"); press("0");
        await settled();
        const back = [element("one").hidden, element("zoomed").textContent];
        location.hash = single;
        await settled();
        const again = [element("which").textContent, element("zoomed").textContent];
        answer({ zoomed, link, alike, single, canvases, which, back, again });
        """,
    )
    assert found["zoomed"] == "225 %"
    assert found["link"] == "#zoom=2.25,0.5000,0.5000"
    assert found["alike"] == 1
    assert found["single"] == f"#zoom=2.25,0.5000,0.5000&image={name}"
    assert found["canvases"] == len(shown) + 1
    assert found["which"] == name
    assert found["back"] == [True, "100 %"]
    assert found["again"] == [name, "225 %"]


def test_the_page_as_it_is_written_opens_a_link_to_one_image_under_its_own_policy(
    written: tuple[Written, list[Column]], tmp_path: Path
) -> None:
    page, shown = written
    name = page_data(Path(page.uri).read_text("utf-8"))["images"][2]["id"]
    opened = dom(f"file://{page.uri}#image={name}&layers=photo,error", tmp_path)
    assert re.search(r'<body[^>]* data-drawn="\d+"', opened)
    assert f'<h2 id="which">{name}</h2>' in opened
    assert len(re.findall(r"<canvas[^>]*data-drawn", opened)) == len(shown) + 1
