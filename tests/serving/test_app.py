"""The application without Ray: what it answers, and that nothing malformed gets past 4xx or brings it down."""

import asyncio
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("multipart")
from fastapi.testclient import TestClient

from segdist.core import masks
from segdist.core.errors import DataError
from segdist.core.panels import encode_jpeg, encode_png
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.formats.synthetic.scenes import draw
from segdist.serving.answers import read_prompt
from segdist.serving.app import About, make_app
from segdist.serving.limits import BusyError, Limits

TOKEN = "a token for this test alone"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
CLASSES = ("roof", "tree")


async def brightest(image_HWC: ImageHWC, prompt: Prompt) -> tuple[Instance, ...]:
    """A model whose answer anybody can compute: the pixels brighter than the mean; or the boxes it is shown."""
    await asyncio.sleep(0)
    size_hw = image_HWC.shape[0], image_HWC.shape[1]
    if prompt.boxes_xyxy:
        rles = [masks.from_box(box, size_hw=size_hw) for box in prompt.boxes_xyxy]
        return tuple(Instance(label, r, r.box_xyxy, 0.9) for label, r in zip(prompt.labels, rles, strict=True))
    rle = masks.encode(image_HWC.mean(axis=2) > image_HWC.mean())
    return (Instance("tree", rle, rle.box_xyxy, 0.5),) if rle.area else ()


def app_of(
    ask: Any = brightest,
    *,
    classes: tuple[str, ...] = CLASSES,
    prompts: frozenset[str] = frozenset({"none", "box"}),
    **options: Any,
) -> Any:
    about = About("roofs@champion", "unet_cbam", classes, prompts, 0.3, lambda _, score: score >= 0.3)
    return make_app(ask, about, token=TOKEN, **options)


def client_of(ask: Any = brightest, prompts: frozenset[str] = frozenset({"none", "box"}), **limits: Any) -> TestClient:
    app = app_of(ask, prompts=prompts, hosts=("roofs.example",), limits=Limits(**limits))
    return TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=False)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of() as opened:
        yield opened


PICTURE = draw("roofs", 1, 48)[0][:40]


def ask(client: TestClient, content: bytes = b"", **form: str) -> Any:
    files = {"image": ("a.png", content or encode_png(PICTURE), "image/png")}
    return client.post("/v1/segment", files=files, data=form, headers=HEADERS)


def test_coco_polygons_and_png_say_the_same(client: TestClient) -> None:
    want = PICTURE.mean(axis=2) > PICTURE.mean()
    coco = ask(client).json()
    assert coco["size_hw"] == [40, 48]
    (instance,) = coco["instances"]
    decoded = masks.decode(masks.from_coco(instance["segmentation"], size_hw=(40, 48)))
    np.testing.assert_array_equal(decoded, want)
    assert (instance["label"], instance["score"], instance["category_id"]) == ("tree", 0.5, 2)

    (polygons,) = ask(client, output="polygons").json()["instances"]
    filled = np.zeros((40, 48), bool)
    for loop in polygons["segmentation"]:  # even-odd: each pixel's centre, by a ray to the left
        for (x1, y1), (x2, y2) in zip(loop, loop[1:] + loop[:1], strict=True):
            if x1 == x2:
                filled[min(y1, y2) : max(y1, y2), x1:] ^= True
    np.testing.assert_array_equal(filled, want)

    reply = ask(client, output="png")
    assert reply.headers["content-type"] == "image/png"
    drawn = cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(drawn, np.where(want, 2, 0))


def test_boxes_come_back_in_order_with_their_labels_and_scores_are_cut(client: TestClient) -> None:
    prompt = {"boxes_xyxy": [[1, 2, 11, 12], [20, 5, 30, 9]], "labels": ["tree", "roof"]}
    found = ask(client, prompt=json.dumps(prompt)).json()["instances"]
    assert [(i["label"], i["area"]) for i in found] == [("tree", 100), ("roof", 40)]
    assert ask(client, prompt=json.dumps(prompt), min_score="0.95").json()["instances"] == []


def test_page_documentation_health_model_and_metrics(client: TestClient) -> None:
    assert "Drop an image here" in client.get("/").text
    assert client.get("/docs").status_code == 200
    assert client.get("/openapi.json").json()["paths"].keys() >= {"/health", "/metrics", "/v1/model", "/v1/segment"}
    assert client.get("/health").json() == {"status": "ok", "model": "roofs@champion"}
    assert client.get("/v1/model", headers=HEADERS).json()["prompts"] == ["box"]
    ask(client)
    ask(client, b"no picture")
    said = client.get("/metrics", headers=HEADERS).text
    assert 'segdist_requests_total{outcome="ok"} 1.0' in said
    assert 'segdist_requests_total{outcome="refused"} 1.0' in said
    assert "segdist_request_seconds_count 1.0" in said


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 4096))
        + chunk(b"IEND", b"")
    )


def malformed() -> list[tuple[str, dict[str, Any]]]:
    """Fifty requests that nobody should answer with a result."""
    png, jpeg = encode_png(PICTURE), encode_jpeg(PICTURE)
    images = [
        b"", b"no picture", b"%PDF-1.7", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a", b"\0" * 1000,
        png[:20], png[:60], png[: len(png) // 2], png[: len(png) - 200], jpeg[:100], jpeg[: len(jpeg) // 2],
        bomb(20_000, 20_000), bomb(2**31 - 1, 2**31 - 1), bomb(0, 10), bomb(1, 60_000_000), b"RIFF\0\0\0\0WEBPVP8 ",
        b"II*\0\x08\0\0\0", b"BM" + b"\xff" * 60, json.dumps({"image": "aGVsbG8="}).encode(),
    ]  # fmt: skip
    found: list[tuple[str, dict[str, Any]]] = [
        ("/v1/segment", {"files": {"image": ("x.png", content, "image/png")}, "headers": HEADERS}) for content in images
    ]
    prompts = [
        "{", "[]", "null", "7", '{"boxes": [[1,2,3,4]]}', '{"boxes_xyxy": [[1,2,3]]}', '{"boxes_xyxy": [[5,5,1,1]]}',
        '{"boxes_xyxy": [[0,0,1e9,1e9]]}', '{"boxes_xyxy": [["a",0,1,1]]}', '{"boxes_xyxy": [[NaN,0,1,1]]}',
        '{"boxes_xyxy": [[0,0,4,4]], "labels": ["cat"]}', '{"boxes_xyxy": [[0,0,4,4]], "labels": ["roof","roof"]}',
        '{"points_xy": [[[1,1]]]}', '{"text": "roof"}', '{"labels": ["roof"]}', json.dumps({"text": "x" * 2000}),
        json.dumps({"boxes_xyxy": [[0, 0, 1, 1]] * 1001}),
    ]  # fmt: skip
    image = {"image": ("x.png", png, "image/png")}
    found += [("/v1/segment", {"files": image, "data": {"prompt": p}, "headers": HEADERS}) for p in prompts]
    found += [
        ("/v1/segment", {"files": image}),
        ("/v1/segment", {"files": image, "headers": {"Authorization": "Bearer wrong"}}),
        ("/v1/segment", {"files": image, "headers": {"Authorization": f"Basic {TOKEN}"}}),
        ("/v1/segment", {"files": image, "headers": {"Authorization": TOKEN}}),
        ("/v1/segment", {"data": {"image": "a text"}, "headers": HEADERS}),
        ("/v1/segment", {"json": {"image": "a text"}, "headers": HEADERS}),
        ("/v1/segment", {"files": image, "data": {"output": "exe"}, "headers": HEADERS}),
        ("/v1/segment", {"files": image, "data": {"min_score": "7"}, "headers": HEADERS}),
        ("/v1/segment", {"content": b"--x\r\n", "headers": {**HEADERS, "Content-Type": "multipart/form-data"}}),
        ("/v1/../../../etc/passwd", {"files": image, "headers": HEADERS}),
        ("/%2e%2e/%2e%2e/etc/passwd", {"files": image, "headers": HEADERS}),
        ("/v1/segment/..%2f..%2fmodel.json", {"files": image, "headers": HEADERS}),
        ("//v1/segment", {"files": image, "headers": HEADERS}),
    ]
    return found


def test_fifty_malformed_requests_are_all_refused_with_4xx_and_the_server_is_alive(client: TestClient) -> None:
    requests = malformed()
    assert len(requests) == 50
    for path, request in requests:
        reply = client.post(path, **request)
        assert 400 <= reply.status_code < 500, (reply.status_code, reply.text[:80], path, request)
    assert ask(client).status_code == 200


def test_a_body_larger_than_allowed_is_refused_whether_or_not_it_says_so() -> None:
    with client_of(max_bytes=10_000) as client:
        noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
        assert ask(client, encode_png(noise)).status_code == 413
        parts = (b"x" * 1000 for _ in range(100))  # chunked: no length is stated
        headers = {**HEADERS, "Content-Type": "multipart/form-data; boundary=x"}
        assert client.post("/v1/segment", content=parts, headers=headers).status_code == 413
        assert ask(client).status_code == 200


def test_a_model_that_is_busy_says_so_and_one_that_waits_for_prompts_asks_for_them() -> None:
    async def busy(image_HWC: ImageHWC, prompt: Prompt) -> tuple[Instance, ...]:
        raise BusyError

    with client_of(busy) as client:
        reply = ask(client)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    with client_of(prompts=frozenset({"box", "point"})) as client:
        assert "Send a prompt" in ask(client).json()["detail"]
        assert client.get("/health").json()["status"] == "ok"


def test_points_are_checked_against_the_image_and_completed() -> None:
    understood = frozenset({"point"})
    text = json.dumps({"points_xy": [[[1, 2], [3, 4]], [[5, 6]]]})
    told = read_prompt(text, size_hw=(10, 10), classes=CLASSES, understood=understood)
    assert told.point_is_object == ((True, True), (True,))
    assert told.labels == ("roof", "roof")
    wrongs: tuple[dict[str, Any], ...] = (
        {"points_xy": [[[10, 2]]]},
        {"points_xy": [[]]},
        {"points_xy": [[[1, 1]]], "point_is_object": [[]]},
    )
    for wrong in wrongs:
        with pytest.raises(DataError):
            read_prompt(json.dumps(wrong), size_hw=(10, 10), classes=CLASSES, understood=understood)


def test_the_page_is_one_file_that_asks_no_other_server() -> None:
    page = (Path(__file__).parents[2] / "segdist" / "serving" / "page.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "src=" not in page
    assert io.StringIO(page).readline().startswith("<!doctype html>")
