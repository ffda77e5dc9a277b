"""The page of all trials beside each other: its maps, its order, its files; in a browser in `tests/pipeline`."""

import html
import json
import re
import zlib
from base64 import b64decode, b64encode
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdist.core import masks
from segdist.core.panels import encode_jpeg
from segdist.core.records import Instance, LabelledImage
from segdist.metrics.contributions import Contributions
from segdist.pages import Leaderboard
from segdist.pages.side_by_side import Column, LabelMap, ShownImages, found_map, write_side_by_side
from segdist.pages.side_by_side.disagreement import LEVELS, disagreement
from segdist.pages.side_by_side.label_maps import LONGEST, map_size, true_map
from segdist.reading.examples import decode_image
from tests.pages.fake import CLASSES, example
from tests.pages.test_page import tags

IMAGES = 5


def label_map(codes: Any) -> LabelMap:
    return LabelMap.of(np.array(codes, np.uint16))


def unpacked(content: bytes, size_hw: tuple[int, int]) -> list[Any]:
    """The maps of a file, read as its format is described."""
    values, value, shift = [], 0, 0
    for byte in content:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            values.append(value)
            value = shift = 0
    codes = np.repeat(values[::2], values[1::2])
    return list(codes.reshape(-1, *size_hw))


def test_a_map_comes_out_of_its_bytes_as_it_went_in_whatever_its_codes_and_the_lengths_of_its_runs() -> None:
    rng = np.random.default_rng(0)
    maps = [
        rng.integers(0, 3, (40, 70)),
        np.zeros((40, 70)),
        np.full((40, 70), 300),
        np.repeat([[0], [1]], 20, 0) + np.zeros((40, 70)),
    ]
    packed = b"".join(label_map(codes).packed for codes in maps)
    assert np.array_equal(unpacked(packed, (40, 70)), maps)
    assert all(np.array_equal(label_map(codes).decoded(), codes) for codes in maps)
    large = np.zeros((512, 512))
    assert len(label_map(large).packed) == 1 + 3, "a code, and a length of three times seven bits"


def instance(label: str, mask: Any, *, is_crowd: bool = False) -> Instance:
    rle = masks.encode(mask)
    return Instance(label, rle, rle.box_xyxy, is_crowd=is_crowd)


def test_small_objects_are_seen_on_large_ones_and_where_nobody_knows_has_a_code_of_its_own() -> None:
    wall, window, crowd = (np.zeros((6, 8), np.bool_) for _ in range(3))
    wall[:, :5], window[2:4, 1:3], crowd[:, 4:7] = True, True, True
    expected = np.zeros((6, 8))
    expected[crowd] = 3
    expected[wall] = 1
    expected[window] = 2
    truth = [instance("window", window), instance("wall", wall), instance("wall", crowd, is_crowd=True)]
    assert np.array_equal(true_map(truth, (6, 8), ("wall", "window")).decoded(), expected)
    boxed = true_map([Instance("wall", None, (1, 1, 3, 4))], (6, 8), ("wall", "window")).decoded()
    assert boxed.sum() == 3 * 2 * 3
    assert not found_map([Instance("wall", None, (1, 1, 3, 4))], (6, 8), ("wall",)).decoded().any()


def test_a_map_is_never_larger_than_its_image_nor_than_the_page_needs() -> None:
    assert map_size((96, 128)) == (96, 128)
    assert map_size((3000, 4000)) == (LONGEST * 3 // 4, LONGEST)


def test_disagreement_is_the_jaccard_distance_pooled_over_all_pairs_of_trials() -> None:
    rng = np.random.default_rng(1)
    codes = [rng.integers(0, 4, (9, 11)) * (rng.random((9, 11)) < 0.6) for _ in range(6)]
    found = disagreement([label_map(one) for one in codes])
    pairs = list(combinations(codes, 2))
    differ = sum(a != b for a, b in pairs)
    either = sum(((a > 0) | (b > 0)).sum() for a, b in pairs)
    assert found.value == pytest.approx(np.sum(differ) / either)
    assert np.array_equal(found.where.decoded(), np.ceil(np.minimum(differ / 9, 1) * LEVELS)), "3 x 3 pairs of halves"


@pytest.mark.parametrize(
    ("maps", "value"),
    [
        ([[[0, 1]], [[0, 1]]], 0.0),
        ([[[0, 1]], [[1, 0]]], 1.0),
        ([[[1, 1]], [[1, 2]]], 0.5),
        ([[[0, 0]], [[0, 0]]], 0.0),
        ([[[0, 1]]], 0.0),
    ],
)
def test_disagreement_is_0_where_all_say_the_same_and_1_where_nothing_is_shared(maps: Any, value: float) -> None:
    assert disagreement([label_map(one) for one in maps]).value == value


@pytest.fixture(scope="module")
def images() -> ShownImages:
    rows: list[LabelledImage] = []
    for seed in range(IMAGES):
        image, sample, _ = example(seed, 0.5)
        rows.append((sample, encode_jpeg(image)))
    return ShownImages(rows, [0, 2, 4], CLASSES)


def columns(board: Leaderboard, images: ShownImages) -> list[Column]:
    rng = np.random.default_rng(0)
    found = []
    for k, trial in enumerate(t for t in board.trials if board.score(t) is not None):
        seen = [example(place, 0.9 - 0.08 * k)[2].instances for place in images.places]
        single, influence = rng.random((2, IMAGES))
        single[0] = np.nan
        numbers = Contributions(float(rng.random()), single, influence, rng.random(50))
        found.append(Column(trial, numbers, [found_map(one, (96, 128), CLASSES) for one in seen]))
    return found


def test_the_page_holds_scores_and_beside_it_lie_a_photograph_and_all_maps_of_each_image(
    board: Leaderboard, images: ShownImages, tmp_path: Path
) -> None:
    written = columns(board, images)
    folder = tmp_path / "side_by_side"
    done = write_side_by_side(str(folder), board, written, images, metric="iou", report="../report.html")
    files = {str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
    assert sorted(files) == sorted(
        [
            "index.html",
            "scores.js",
            *(f"{kind}/0000{k}.{end}" for kind, end in (("maps", "js"), ("photos", "webp")) for k in range(3)),
        ]
    )
    assert done.total_bytes == sum(files.values())
    assert done.page_bytes == files["index.html"] + files["scores.js"]
    assert decode_image((folder / "photos" / "00001.webp").read_bytes()).shape == (96, 128, 3)

    said = re.fullmatch(r'segdistRow\(1,"(.*)"\)', (folder / "maps" / "00001.js").read_text("utf-8"))
    assert said is not None
    maps = unpacked(zlib.decompress(b64decode(said.group(1)), wbits=-15), (96, 128))
    truth = true_map(images.rows[2][0].instances, (96, 128), CLASSES)
    expected = [truth, *(c.maps[1] for c in written), disagreement([c.maps[1] for c in written]).where]
    assert np.array_equal(maps, [one.decoded() for one in expected])

    scores = json.loads((folder / "scores.js").read_text("utf-8").removeprefix("segdistScores(").removesuffix(")"))
    assert len(scores) == len(written)
    for found, column in zip(scores, written, strict=True):
        numbers = {name: np.frombuffer(b64decode(text), "<f4") for name, text in found.items()}
        assert numbers["single"] == pytest.approx(column.contributions.single_N[[0, 2, 4]], nan_ok=True)
        assert numbers["influence"] == pytest.approx(column.contributions.influence_N[[0, 2, 4]])
        assert numbers["resampled"] == pytest.approx(column.contributions.resampled_R)


def page_data(page: str) -> Any:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_says_who_won_and_what_differs_and_runs_no_script_but_its_own(
    board: Leaderboard, images: ShownImages, tmp_path: Path
) -> None:
    done = write_side_by_side(str(tmp_path), board, columns(board, images), images, metric="iou", notes=["<b>old</b>"])
    page = Path(done.uri).read_text("utf-8")
    assert tags(Path(done.uri)).open == []
    assert "&lt;script&gt;alert(&#39;roofs&#39;)" in page
    assert "&lt;b&gt;old&lt;/b&gt;" in page
    assert board.leader is not None
    assert f"<b>Trial {board.leader.number} won</b>" in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy.group(1)).split("; "))
    assert rules["default-src"] == "'none'"
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'self' file: 'sha256-{digest}'", "as the browser computes it"
    assert not re.search(r"https?://", page)
    data = page_data(page)
    shown = [t for t in board.trials if board.score(t) is not None]
    assert [t["number"] for t in data["trials"]] == [t.number for t in shown]
    assert [t["winner"] for t in data["trials"]] == [t is board.winner for t in shown]
    assert [c["name"] for c in data["classes"]] == list(CLASSES)
    assert [i["id"] for i in data["images"]] == [images.rows[k][0].image_id for k in images.places]


def test_a_second_writing_leaves_nothing_of_the_first_and_touches_nothing_of_others(
    board: Leaderboard, images: ShownImages, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    mine, earlier = tmp_path / "photos" / "00004.webp", tmp_path / "photos" / "00000.jpg"
    for photograph in (mine, earlier):
        photograph.write_bytes(b"a photograph of somebody")
    written = columns(board, images)
    fewer = ShownImages(images.rows, images.places[:1], images.classes)
    write_side_by_side(str(tmp_path), board, written, images, metric="iou")
    assert mine.exists(), "there was no page before"
    assert earlier.exists()
    mine.unlink()
    (tmp_path / "photos" / "holiday.jpg").touch()
    write_side_by_side(str(tmp_path), board, written, fewer, metric="iou")
    assert sorted(f.name for f in tmp_path.rglob("*.*")) == [
        "00000.js",
        "00000.webp",
        "holiday.jpg",
        "index.html",
        "scores.js",
    ]


def test_without_a_trial_the_page_says_what_is_missing(board: Leaderboard, tmp_path: Path) -> None:
    nothing = ShownImages((), (), ())
    done = write_side_by_side(str(tmp_path), board, (), nothing, metric="iou", notes=["The images are gone."])
    page = Path(done.uri).read_text("utf-8")
    assert "The images are gone." in page
    assert "There is nothing to lay side by side" in page
    assert "<script>" not in page
