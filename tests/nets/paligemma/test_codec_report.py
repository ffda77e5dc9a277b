import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segdist.cli.paligemma import app
from segdist.core.masks import decode, encode
from segdist.core.records import Instance, Sample
from segdist.nets.paligemma.codec import MaskCodec
from segdist.nets.paligemma.codec_files import save_codec
from segdist.nets.paligemma.codec_report import boundary_iou, codec_report, through_tiles
from segdist.nets.paligemma.locations import Edges
from segdist.nets.paligemma.mask_crops import squares

EDGES: tuple[Edges, ...] = ("round", "truncate")


class Exact(MaskCodec):
    """Remembers squares instead of coding them: what is lost then is lost by boxes and resizing alone."""

    def encode(self, covers_NSS: np.ndarray) -> list[tuple[int, ...]]:
        self.seen = covers_NSS
        return [(n,) * 16 for n in range(len(covers_NSS))]

    def decode(self, codes: object) -> np.ndarray:
        assert isinstance(codes, list)
        return np.stack([self.seen[c[0]].astype(np.float32) / 255 - 0.5 for c in codes])


def ring(size: int = 128) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (60, 60), 40, 1, 9)
    return mask > 0


def sample(mask: np.ndarray) -> Sample:
    rle = encode(mask)
    crowd = Instance("crack", rle, rle.box_xyxy, is_crowd=True)
    return Sample("a", "", mask.shape[:2], (Instance("crack", rle, rle.box_xyxy), crowd))


def test_a_codec_that_loses_nothing_loses_little() -> None:
    (report,) = codec_report([sample(ring())], Exact(), tiles=2).values()
    assert len(report.ious) == 1
    assert report.ious[0] > 0.9
    assert report.tiled_ious[0] > 0.95
    assert report.lost == 0


def test_the_boundary_iou_is_that_of_the_metrics() -> None:
    from segdist.core.records import Prediction
    from segdist.metrics import evaluate

    truth, guess = ring(), np.roll(ring(), 3, axis=1)
    rle = encode(guess)
    found = Prediction("a", (Instance("crack", rle, rle.box_xyxy),))
    one = Sample("a", "", truth.shape[:2], sample(truth).instances[:1])
    values = evaluate([one], [found], classes=("crack",), min_score=0.3, metrics=["boundary_iou"])
    assert boundary_iou(encode(truth), rle) == pytest.approx(values["boundary_iou"])


def test_tiles_are_put_together_where_they_were_cut() -> None:
    mask = np.zeros((65, 99), np.bool_)
    mask[10:50, 20:80] = True
    assert (decode(through_tiles(encode(mask), Exact(), 3)) == mask).mean() > 0.99


def test_squares_are_those_of_masks_and_of_their_parts() -> None:
    assert squares([sample(ring())], parts=0, seed=0).shape == (1, 64, 64)
    assert 1 < len(squares([sample(ring())], parts=4, seed=0)) <= 5
    assert squares([], parts=1, seed=0).shape == (0, 64, 64)


def test_the_command_prints_the_upper_bound_per_class(tmp_path: Path) -> None:
    save_codec(MaskCodec(), tmp_path / "codec.safetensors")
    codec = str(tmp_path / "codec.safetensors")
    arguments = ["codec-report", "drawn", "--format", "synthetic", "--json", "--codec", codec]
    for option in ("scene=roofs", "count=3", "size=64"):
        arguments += ["--option", option]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.output)["classes"]["roof"]
    assert figures["masks"] > 3
    assert 0 <= figures["iou"] <= 1
    assert {"boundary_iou", "iou_tiled", "gain_of_tiling", "iou_p10", "lost"} <= figures.keys()


def test_the_command_refuses_a_codec_that_is_not_there(tmp_path: Path) -> None:
    arguments = ["codec-report", "drawn", "--format", "synthetic", "--codec", str(tmp_path / "vae-oid.npz")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "vae-oid.npz cannot be read" in result.output


def test_masks_pasted_as_big_visions_evaluator_does_lie_beside_those_that_are_rounded(tmp_path: Path) -> None:
    mask = np.zeros((201, 151), np.bool_)
    mask[33:95, 20:77] = True
    found = {edges: codec_report([sample(mask)], Exact(), tiles=2, edges=edges)["crack"] for edges in EDGES}
    assert found["round"].ious[0] > 0.99
    assert found["round"].ious[0] > found["truncate"].ious[0] > 0.9
    assert found["round"].tiled_ious[0] > found["truncate"].tiled_ious[0]

    annotations = {
        "images": [{"id": 1, "file_name": "1.png", "height": 201, "width": 151}],
        "categories": [{"id": 1, "name": "crack"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 33, 57, 62], "area": 3534}],
    }
    annotations["annotations"][0]["segmentation"] = encode(mask).coco | {"counts": encode(mask).counts.decode()}
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    Image.new("RGB", (151, 201)).save(tmp_path / "1.png")
    texts = [CliRunner().invoke(app, ["codec-report", str(tmp_path), "--edges", edges]).output for edges in EDGES]
    assert "truncated boxes" in texts[1]
    assert texts[0].splitlines()[2] != texts[1].splitlines()[2]
    refused = CliRunner().invoke(app, ["codec-report", str(tmp_path), "--edges", "floor"])
    assert refused.exit_code == 2
    assert "truncate" in refused.output
