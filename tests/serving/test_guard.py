"""What is refused before it costs anything, what waits, and what answers give away."""

import asyncio
import functools
import json
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("multipart")
import httpx
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from segdist.core import masks
from segdist.core.panels import encode_png
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.reading.examples import decode_image
from segdist.serving import app as serving_app
from segdist.serving.limits import Budget, BusyError, Limits
from tests.serving.test_app import HEADERS, PICTURE, TOKEN, app_of, ask, bomb, brightest, client_of

Async = Callable[..., Awaitable[None]]


def run(test: Async) -> Callable[..., None]:
    """A test in an event loop of its own."""

    @functools.wraps(test)
    def inside(*arguments: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 60))

    return inside


def talking_to(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=HEADERS, timeout=30)


def form(image: bytes = b"", **fields: str) -> dict[str, Any]:
    return {"files": {"image": ("a.png", image or encode_png(PICTURE), "image/png")}, "data": fields}


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST.", "127.0.0.1:80", "[::1]:8000", "roofs.example:8000"]
)
def test_a_request_for_this_server_is_answered(host: str) -> None:
    with client_of() as client:
        assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost",
        "localhost@evil.example", "localhost:8000@evil.example", "0.0.0.0", "127.1", "0x7f000001", "2130706433", "",
        "localhost:", "localhost:x", "localhost/", "[::1", "[::2]", "\xe4", "localhost, evil.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/health", "/v1/model"])
def test_a_name_that_somebody_else_pointed_here_is_refused(host: str, path: str) -> None:
    with client_of() as client:
        headers = {b"host": host.encode("latin-1"), b"authorization": HEADERS["Authorization"].encode()}
        assert client.get(path, headers=headers).status_code == 421


def test_a_page_of_another_site_may_not_ask_but_our_own_may() -> None:
    with client_of() as client:
        for origin in (
            "http://evil.example",
            "null",
            "http://localhost",
            "http://localhost:8001",
            "localhost:8000",
            "",
        ):
            assert client.get("/v1/model", headers={**HEADERS, "Origin": origin}).status_code == 403, origin
        assert client.get("/v1/model", headers={**HEADERS, "Origin": "http://localhost:8000"}).status_code == 200
        asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        assert client.options("/v1/segment", headers=asked).status_code == 403


def test_every_answer_tells_browsers_to_run_nothing_and_to_tell_nobody() -> None:
    with client_of() as client:
        replies = [client.get(p, headers=HEADERS) for p in ("/", "/docs", "/openapi.json", "/v1/model", "/nothing")]
        replies += [client.get("/v1/model"), client.post("/v1/segment", content=b"x", headers=HEADERS), ask(client)]
    assert [r.status_code for r in replies] == [200, 200, 200, 200, 404, 401, 415, 200]
    for reply in replies:
        assert reply.headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_asks_no_other_server_and_holds_no_handlers(path: str) -> None:
    with client_of() as client:
        page = client.get(path).text
    for wrong in (r"https?://", r"\ssrc=", r"\son\w+=", r"\sstyle=", r"javascript:", r"innerHTML", r"eval\("):
        assert not re.search(wrong, page), wrong


def test_only_forms_in_utf_8_are_read_and_only_plain_ones() -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{}\r\n--x--\r\n'
    wrong = [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json"},
        {"Content-Type": ""},
        {"Content-Type": "multipart/mixed; boundary=x"},
        {"Content-Type": "multipart/form-data; boundary=x; charset=punycode"},
        {"Content-Type": 'multipart/form-data; boundary="x"; note="charset=utf-8"; charset=idna'},
        {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"},
        {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"},
        {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "br"},
    ]
    with client_of() as client:
        for headers in wrong:
            reply = client.post("/v1/segment", content=body, headers={**HEADERS, **headers})
            assert reply.status_code == 415, headers
        fine = {**HEADERS, "Content-Type": "multipart/form-data; boundary=x; charset=UTF-8"}
        assert client.post("/v1/segment", content=body, headers=fine).status_code == 422  # there is no image


PART = b'--x\r\nContent-Disposition: form-data; name="a"'


@pytest.mark.filterwarnings("ignore:.*nclosed file")  # starlette leaves that of a part without an end to the collector
@pytest.mark.filterwarnings("ignore:Exception ignored in.*(SpooledTemporaryFile|FileIO)")
@pytest.mark.parametrize(
    "body",
    [
        b"--x--\r\n",
        PART + b"\r\n\r\n" + b"\r\n" + (PART + b"\r\n\r\n1\r\n") * 300_000 + b"--x--",
        (PART + b'; filename="a"\r\n\r\n1\r\n') * 200_000 + b"--x--",
        PART + b"\r\n" + b"X: y\r\n" * 2_000_000 + b"\r\n1\r\n--x--",
        PART + b"\r\nX: " + b"y" * 19_000_000,
        PART + b"; " + b"y" * 19_000_000,
        b"--x\r\n" + b"y" * 19_000_000 + b": y\r\n",
        PART + b"\r\n\r\n" + b"-" * 19_000_000,
        PART + b'; filename="a"\r\n\r\n' + b"\r\n--" * 4_000_000,
        PART.replace(b'"a"', b'"prompt"') + b"\r\n\r\n" + b"[" * 19_000_000 + b"\r\n--x--",
        b"\r\n" * 9_000_000,
        PART + b"; name*=utf-8''b; filename*=punycode''x\r\n\r\n1\r\n--x--",
        PART.replace(b'"a"', b'"image"') + b'; filename="../../etc/passwd\\0\x1b[2J"\r\n\r\n1\r\n--x--',
    ],
    ids=[
        "nothing", "fields", "files", "headers of a part", "a header's value", "a disposition", "a header's name",
        "dashes", "boundaries", "a deep prompt", "line ends", "extended names", "a wild file name",
    ],
)  # fmt: skip
def test_a_hostile_form_is_refused_in_a_second(body: bytes) -> None:
    with client_of() as client:
        headers = {**HEADERS, "Content-Type": "multipart/form-data; boundary=x"}
        reply = client.post("/v1/segment", content=body, headers=headers)
        assert reply.status_code in (400, 422), reply.text[:200]
        assert len(reply.content) < 1_000


@pytest.mark.parametrize(
    "fields",
    [
        {"output": "x" * 900_000},
        {"min_score": "9" * 900_000},
        {"min_score": "nan"},
        {"min_score": "inf"},
        {"prompt": json.dumps({"boxes_xyxy": [[0, 0, 1, 1]], "labels": ["x" * 400_000]})},
        {"prompt": json.dumps({"boxes_xyxy": [[0, 0, 1, 1]], "y" * 400_000: 1})},
        {"prompt": "[" * 900_000},
        {"prompt": '{"boxes_xyxy": [' + "[]," * 100_000 + "[]]}"},
        {"prompt": '{"boxes_xyxy": [[0, 0, 1e308, 1e309]]}'},
        {"prompt": '{"boxes_xyxy": [[0, 0, ' + "9" * 400_000 + ", 1]]}"},
        {"prompt": '{"boxes_xyxy": [[-Infinity, 0, NaN, 1]]}'},
        {"prompt": '{"text": "\\ud800"}'},
    ],
)
def test_a_hostile_field_is_refused_and_not_repeated(fields: dict[str, str]) -> None:
    with client_of() as client:
        reply = ask(client, b"", **fields)
        assert reply.status_code == 422, reply.text[:200]
        assert len(reply.content) < 1_000
        assert isinstance(reply.json()["detail"], str)


def test_a_model_that_fails_is_a_500_that_says_nothing_of_the_inside() -> None:
    async def failing(image_HWC: ImageHWC, prompt: Prompt) -> tuple[Instance, ...]:
        raise RuntimeError(f"weights of {TOKEN} at /secret/path")

    with client_of(failing) as client:
        for reply in (ask(client), client.get("/health")):
            assert reply.status_code == 500
            assert set(reply.json()) == {"detail"}
            assert "secret" not in reply.text
            assert TOKEN not in reply.text


def test_thin_images_and_many_objects_cost_no_more_than_a_large_square_one() -> None:
    box = {"boxes_xyxy": [[0, 0, 1, 1]] * 100}
    with client_of(max_pixels=2_000_000) as client:
        assert ask(client, bomb(65_536, 1)).status_code == 413
        assert ask(client, bomb(1, 65_536)).status_code == 413
        reply = ask(client, bomb(1_400, 1_400), prompt=json.dumps(box))
        assert (reply.status_code, "65 objects" in reply.json()["detail"]) == (422, True)
        assert ask(client, prompt=json.dumps(box)).status_code == 200


def test_noise_is_not_traced_to_gigabytes_of_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_app, "_MOST_RUNS", 1_000)
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    with client_of() as client:
        assert ask(client, encode_png(noise), output="polygons").status_code == 422
        assert ask(client, encode_png(noise), output="coco").status_code == 200
        assert ask(client, output="polygons").status_code == 200


def test_the_picture_of_classes_shows_the_surest_where_instances_overlap() -> None:
    async def overlapping(image_HWC: ImageHWC, prompt: Prompt) -> tuple[Instance, ...]:
        size_hw = image_HWC.shape[0], image_HWC.shape[1]
        found = []
        for label, box, score in (("roof", (5, 5, 20, 20), 0.9), ("tree", (0, 0, 30, 10), 0.5)):
            rle = masks.from_box(box, size_hw=size_hw)
            found.append(Instance(label, rle, rle.box_xyxy, score))
        return tuple(found)

    with client_of(overlapping) as client:
        content = np.frombuffer(ask(client, output="png").content, np.uint8)
    import cv2

    want = np.zeros((40, 48), np.uint8)
    want[0:10, 0:30] = 2
    want[5:20, 5:20] = 1
    np.testing.assert_array_equal(cv2.imdecode(content, cv2.IMREAD_UNCHANGED), want)


class Gate:
    """A model that looks at images until it is let go, and counts how many it holds."""

    def __init__(self) -> None:
        self.open, self.held, self.most = asyncio.Event(), 0, 0

    async def __call__(self, image_HWC: ImageHWC, prompt: Prompt) -> tuple[Instance, ...]:
        self.held += 1
        self.most = max(self.most, self.held)
        await self.open.wait()
        self.held -= 1
        return await brightest(image_HWC, prompt)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


@run
async def test_images_beyond_the_pixels_at_once_wait_and_all_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0

    def counting(content: bytes, **options: Any) -> ImageHWC:
        nonlocal decoded
        decoded += 1
        return decode_image(content, **options)

    monkeypatch.setattr(serving_app, "decode_image", counting)
    gate, pixels = Gate(), PICTURE.shape[0] * PICTURE.shape[1]
    async with talking_to(app_of(gate, limits=Limits(max_pixels=pixels, max_pixels_at_once=3 * pixels))) as client:
        asked = [asyncio.create_task(client.post("/v1/segment", **form())) for _ in range(10)]
        await until(lambda: gate.held == 3)
        await asyncio.sleep(0.2)
        assert (gate.held, decoded) == (3, 3)
        gate.open.set()
        assert [reply.status_code for reply in await asyncio.gather(*asked)] == [200] * 10
    assert gate.most == 3


@run
async def test_who_waits_too_long_or_behind_too_many_is_told_to_come_again() -> None:
    gate, pixels = Gate(), PICTURE.shape[0] * PICTURE.shape[1]
    limits = Limits(max_pixels=pixels, max_pixels_at_once=pixels, max_waiting=2, wait_seconds=1)
    async with talking_to(app_of(gate, limits=limits)) as client:
        asked = [asyncio.create_task(client.post("/v1/segment", **form())) for _ in range(5)]
        done, _ = await asyncio.wait(asked, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().status_code for task in done} == {503}
        await until(lambda: sum(task.done() for task in asked) == 4)  # two had no place in line, two waited a second
        replies = [task.result() for task in asked if task.done()]
        assert {(reply.status_code, reply.headers["retry-after"]) for reply in replies} == {(503, "1")}
        gate.open.set()
        assert [(await task).status_code for task in asked].count(200) == 1
        assert (await client.post("/v1/segment", **form())).status_code == 200


@run
async def test_a_model_that_hangs_is_told_of_and_keeps_its_pixels_until_it_is_done() -> None:
    gate, pixels = Gate(), PICTURE.shape[0] * PICTURE.shape[1]
    limits = Limits(max_pixels=pixels, max_pixels_at_once=pixels, request_seconds=0.5, wait_seconds=0.2)
    async with talking_to(app_of(gate, limits=limits)) as client:
        assert (await client.post("/v1/segment", **form())).status_code == 504
        assert (await client.post("/v1/segment", **form())).status_code == 503
        gate.open.set()
        await until(lambda: gate.held == 0)
        assert (await client.post("/v1/segment", **form())).status_code == 200


@run
async def test_many_who_ask_for_its_health_cost_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_app, "_PULSE_SECONDS", 0.3)
    gate = Gate()
    async with talking_to(app_of(gate)) as client:
        replies = await asyncio.gather(*(client.get("/health") for _ in range(50)))
        assert {reply.json()["status"] for reply in replies} == {"busy"}
        assert gate.most == 1
        gate.open.set()
        assert (await client.get("/health")).json()["status"] == "ok"


@run
async def test_bodies_together_have_a_limit_and_the_largest_that_still_comes_makes_room() -> None:
    stop, came = asyncio.Event(), asyncio.Semaphore(0)

    async def slowly(size: int) -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        yield b"\0" * size
        came.release()
        await stop.wait()
        yield b"\r\n--x--\r\n"

    limits = Limits(max_bytes=100_000, max_bytes_at_once=200_000)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with talking_to(app_of(limits=limits)) as client:
        large, small = (
            asyncio.create_task(client.post("/v1/segment", content=slowly(size), headers=headers))
            for size in (90_000, 60_000)
        )
        await came.acquire()
        await came.acquire()
        third = asyncio.create_task(client.post("/v1/segment", content=slowly(70_000), headers=headers))
        reply = await large
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert (await client.post("/v1/segment", **form())).status_code == 200
        assert not small.done()
        stop.set()
        assert [(await task).status_code for task in (small, third)] == [422, 422]


@run
async def test_a_budget_is_kept_whoever_gives_up_and_is_given_in_turn() -> None:
    budget = Budget(10, most_waiting=100, seconds=30)
    held, most, finished = 0, 0, 0

    async def user(amount: int, seconds: float) -> None:
        nonlocal held, most, finished
        async with budget.hold(amount):
            held += amount
            most = max(most, held)
            try:
                await asyncio.sleep(seconds)
            finally:
                held -= amount
        finished += 1

    rng = np.random.default_rng(0)
    users = [asyncio.create_task(user(int(rng.integers(1, 11)), float(rng.uniform(0, 0.02)))) for _ in range(100)]
    for number in (3, 20, 21, 50, 99):
        await asyncio.sleep(0.02)
        users[number].cancel()
    await asyncio.gather(*users, return_exceptions=True)
    assert finished >= 95
    assert most <= 10
    async with budget.hold(10):  # all of it came back
        with pytest.raises(BusyError):
            async with Budget(0, most_waiting=1, seconds=0.01).hold(1):
                pass


def test_the_page_answers_while_every_thread_decodes() -> None:
    entered = threading.Semaphore(0)
    leave = threading.Event()

    def stuck(content: bytes, **_: Any) -> ImageHWC:
        entered.release()
        leave.wait(30)
        return PICTURE

    with pytest.MonkeyPatch.context() as patch, client_of() as client:
        patch.setattr(serving_app, "decode_image", stuck)
        asked = [threading.Thread(target=ask, args=(client,)) for _ in range(8)]
        for thread in asked:
            thread.start()
        for _ in range(4):
            assert entered.acquire(timeout=30)
        assert client.get("/").status_code == 200
        assert client.get("/health").json()["status"] == "ok"
        leave.set()
        for thread in asked:
            thread.join(30)


def test_a_socket_is_not_opened() -> None:
    with client_of() as client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/segment"):
        pass


def test_the_test_client_is_not_what_makes_it_pass() -> None:
    """Under the name that its own address has, the application answers too; that is how a bound address is allowed."""
    with TestClient(app_of()) as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
