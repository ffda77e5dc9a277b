"""The HTTP application: image and prompt in; COCO annotations, polygons or a PNG out."""

import asyncio
import json
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Annotated, BinaryIO, Literal, TypeVar

import cv2
import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, File, Form, HTTPException, Request, Response, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.types import ASGIApp

from segdist.core import masks
from segdist.core.errors import DataError, SegdistError
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.core.text import counted
from segdist.reading.examples import decode_image
from segdist.reading.images import TooLargeError, header_of
from segdist.reading.outlines import outlines
from segdist.serving.answers import PromptRequest, instances_json, read_prompt
from segdist.serving.guard import Guard
from segdist.serving.limits import MAX_SIDE, OBJECTS_AT_FULL_SIZE, Budget, BusyError, Limits

Ask = Callable[[ImageHWC, Prompt], Awaitable[tuple[Instance, ...]]]
"""Whoever holds the model."""
Form_ = Literal["coco", "polygons", "png"]
MinScore = Annotated[float, Field(ge=0, le=1)] | SkipJsonSchema[None]  # a form has no null
Result = TypeVar("Result")

_THREADS = 4
"""Images read, decoded and drawn at the same time; each may take many times its pixels for a moment."""
_MOST_RUNS = 1_000_000
"""Bytes of run lengths that are traced to polygons; a mask of noise would become gigabytes of corners."""
_MOST_DETAIL = 500
"""Characters of an error; it may quote what came."""
_PULSE_SECONDS = 5


@dataclass(frozen=True)
class About:
    """What is served.

    Attributes:
        name: as it was asked for.
        family: of the model.
        classes: in order.
        prompts: kinds it takes: "none", "box", "point", "text".
        min_score: below which nothing counts as found, in general.
        accepts: whether an instance of a class and score counts as found.
    """

    name: str
    family: str
    classes: tuple[str, ...]
    prompts: frozenset[str]
    min_score: float
    accepts: Callable[[str, float], bool]


class Health(BaseModel):
    """Whether the model answers."""

    status: Literal["ok", "busy"]
    model: str


class ErrorAnswer(BaseModel):
    """Why there is no answer."""

    detail: str


class FoundInstance(BaseModel):
    """A COCO annotation with its label and score."""

    id: int
    image_id: int
    category_id: int
    label: str
    score: float
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int
    segmentation: dict[str, object] | list[object]


class PredictionAnswer(BaseModel):
    """What was found in an image."""

    size_hw: tuple[int, int]
    classes: list[str]
    instances: list[FoundInstance]


def make_app(
    ask: Ask, about: About, *, token: str, hosts: Collection[str] = (), limits: Limits | None = None
) -> ASGIApp:
    """The application, guarded.

    Args:
        ask: finds instances in an image.
        about: the model.
        token: that requests must carry.
        hosts: names that requests may be addressed to, beside the address they come in on and loopback.
        limits: what they may cost.
    """
    limits = limits or Limits()
    app = FastAPI(
        title=f"segdist: {about.name}",
        description=_DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        responses=_described(_REFUSALS),
        exception_handlers={RequestValidationError: _not_valid, Exception: _failed},
    )
    bearer = [Security(HTTPBearer(auto_error=False))]  # for the documentation; the guard asks for it
    counts, pulse = _Counts(), _Pulse(ask, about)
    pixels = Budget(
        max(limits.max_pixels, limits.max_pixels_at_once), most_waiting=limits.max_waiting, seconds=limits.wait_seconds
    )
    threads = CapacityLimiter(_THREADS)

    for path, name in (("/", "page.html"), ("/docs", "docs.html")):
        app.add_api_route(path, _page(name), response_class=HTMLResponse, include_in_schema=False)

    @app.get("/health")
    async def health() -> Health:
        """Whether the model answers: it is shown an image of one colour."""
        return Health(status="ok" if await pulse() else "busy", model=about.name)

    @app.get("/metrics", dependencies=bearer, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Requests, refusals and seconds, for Prometheus."""
        return Response(generate_latest(counts.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/model", dependencies=bearer)
    async def model() -> dict[str, object]:
        """What the model finds, and what it may be asked."""
        return {
            "name": about.name,
            "family": about.family,
            "classes": list(about.classes),
            "prompts": sorted(about.prompts - {"none"}),
            "needs_prompt": "none" not in about.prompts,
            "min_score": about.min_score,
            "limits": {"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels},
            "prompt_schema": PromptRequest.model_json_schema(),
        }

    @app.post(
        "/v1/segment",
        dependencies=bearer,
        response_model=None,
        responses={200: {"model": PredictionAnswer, "content": {"image/png": {}}}, **_described(_REFUSED_IMAGES)},
    )
    async def segment(
        image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, TIFF or BMP.")],
        prompt: Annotated[str, Form(description="JSON, see /v1/model; empty tells nothing.")] = "",
        output: Annotated[Form_, Form(description="coco: run lengths. polygons. png: numbers of classes.")] = "coco",
        min_score: Annotated[MinScore, Form(description="Leave out what is scored lower.")] = None,
    ) -> Response:
        """Find instances in an image."""
        started = time.perf_counter()
        with counts.counted():
            answer = await _within(limits.request_seconds, find(image.file, prompt, output, min_score))
        counts.seconds.observe(time.perf_counter() - started)
        return answer

    async def find(image: BinaryIO, prompt: str, output: Form_, min_score: float | None) -> Response:
        size_hw = await to_thread.run_sync(_size_hw, image, limits, limiter=threads)
        asked = read_prompt(prompt, size_hw=size_hw, classes=about.classes, understood=about.prompts)
        _check_work(asked, size_hw, limits)
        async with pixels.hold(size_hw[0] * size_hw[1]):
            pixels_HWC = await to_thread.run_sync(_decoded, image, size_hw, limiter=threads)
            found = await ask(pixels_HWC, asked)
            kept = [
                i for i in found if (about.accepts(i.label, i.score) if min_score is None else i.score >= min_score)
            ]
            return await to_thread.run_sync(_answer, kept, output, size_hw, about.classes, limiter=threads)

    return Guard(app, token=token, hosts=hosts, limits=limits)


_DESCRIPTION = "Segmentation of an image, with or without a prompt. All paths but /health need `Authorization: Bearer`."
_REFUSALS = {
    401: "The token is missing or wrong.",
    403: "It comes from a page of another site.",
    421: "It is meant for another host.",
    500: "The model failed.",
}
_REFUSED_IMAGES = {
    400: "It is no form, or a broken one.",
    408: "The body came too slowly.",
    413: "It has too many bytes or pixels.",
    415: "The body is no plain form.",
    422: "The image, the prompt or a field is wrong.",
    503: "Too many requests wait; come again.",
    504: "The model took too long.",
}


def _described(refusals: Mapping[int, str]) -> dict[int | str, dict[str, object]]:
    return {status: {"model": ErrorAnswer, "description": text} for status, text in refusals.items()}


def _page(name: str) -> Callable[[], Awaitable[HTMLResponse]]:
    """A page of the package, which runs nothing and asks nobody but what is written in it."""
    text = files("segdist.serving").joinpath(name).read_text("utf-8")
    allowed = {
        f"{kind}-src": " ".join(
            f"'sha256-{b64encode(sha256(part.encode()).digest()).decode()}'"
            for part in re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        )
        for kind in ("script", "style")
    }
    rules = {"default-src": "'none'", **allowed, "connect-src": "'self'", "img-src": "data: blob:"}
    rules |= dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'")
    policy = "; ".join(f"{name} {value}" for name, value in rules.items())

    async def page() -> HTMLResponse:
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    return page


async def _within(seconds: float, work: Coroutine[object, None, Result]) -> Result:
    """What comes out of it. What takes longer is not stopped, because the model cannot be: it keeps its pixels.

    Raises:
        HTTPException: 504, it takes longer.
    """
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        _left_behind.add(task)
        task.add_done_callback(_forget)
        raise HTTPException(
            504, f"An answer may take {counted(seconds, 'second')}. Send a smaller image, or try again later."
        )
    return task.result()


_left_behind: set[asyncio.Task[object]] = set()
"""A task that nobody holds would be collected under way."""


def _forget(task: asyncio.Task[object]) -> None:
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # nobody waits for it any more


class _Pulse:
    """Shows the model a small image, once for all who ask at the same time."""

    def __init__(self, ask: Ask, about: About) -> None:
        size = 32
        self._ask, self._image_HWC = ask, np.zeros((size, size, 3), np.uint8)
        self._prompt = Prompt() if "none" in about.prompts else Prompt(((0, 0, size, size),), (about.classes[0],))
        self._beat: asyncio.Task[bool] | None = None

    async def __call__(self) -> bool:
        """Whether it answers soon."""
        if self._beat is None or self._beat.done():
            self._beat = asyncio.create_task(self._look())
        done, _ = await asyncio.wait({self._beat}, timeout=_PULSE_SECONDS)
        return bool(done) and self._beat.result()

    async def _look(self) -> bool:
        try:
            await self._ask(self._image_HWC, self._prompt)
        except BusyError:
            return False
        return True


class _Counts:
    """Metrics of this process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("segdist_requests", "Requests to segment", ["outcome"], registry=self.registry)
        self.seconds = Histogram("segdist_request_seconds", "Seconds of a request", registry=self.registry)

    def counted(self) -> "_Counted":
        return _Counted(self)


class _Counted:
    """Counts how a request ends, and turns what users can fix into answers of 4xx."""

    def __init__(self, counts: _Counts) -> None:
        self._counts = counts

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        outcome = "ok" if error is None else "refused" if isinstance(error, SegdistError | HTTPException) else "failed"
        self._counts.requests.labels("busy" if isinstance(error, BusyError) else outcome).inc()
        if isinstance(error, SegdistError):
            raise HTTPException(422, _short(str(error))) from error
        if isinstance(error, BusyError):
            raise HTTPException(503, "Too many requests wait. Try again soon.", {"Retry-After": "1"}) from error


async def _not_valid(_: Request, error: Exception) -> JSONResponse:
    """Which field breaks which rule; FastAPI's own answer repeats all that came."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": _short(f"`{'.'.join(map(str, first['loc'][1:]))}`: {first['msg']}.")}, 422)


async def _failed(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"detail": "The model failed on this request. The server's log says why."}, 500)


def _short(text: str) -> str:
    return text if len(text) <= _MOST_DETAIL else f"{text[:_MOST_DETAIL]}..."


def _size_hw(image: BinaryIO, limits: Limits) -> tuple[int, int]:
    """What the header of an image claims; it decides before anything is decoded.

    Raises:
        DataError: it is no image.
        HTTPException: 413, it has too many pixels.
    """
    try:
        height, width = header_of(_content(image), name="`image`").size_hw
    except TooLargeError as error:
        raise HTTPException(413, _short(str(error))) from error
    if height * width > limits.max_pixels or max(height, width) > MAX_SIDE:
        most = f"{limits.max_pixels:,} pixels and sides of {MAX_SIDE:,}"
        raise HTTPException(413, f"An image may have {most} at most, but this one has {width} x {height}.")
    return height, width


def _decoded(image: BinaryIO, size_hw: tuple[int, int]) -> ImageHWC:
    """The pixels.

    Raises:
        DataError: it is no complete image of that size.
    """
    pixels_HWC = decode_image(_content(image), name="`image`")
    if pixels_HWC.shape[:2] != size_hw:
        raise DataError(f"`image` must be what its header promises: {size_hw[1]} x {size_hw[0]} pixels.")
    return pixels_HWC


def _content(image: BinaryIO) -> bytes:
    image.seek(0)
    return image.read()


def _check_work(asked: Prompt, size_hw: tuple[int, int], limits: Limits) -> None:
    """As many objects as there are masks of this size that can be made in reasonable time.

    Raises:
        DataError: they are more.
    """
    objects, pixels = len(asked.boxes_xyxy) or len(asked.points_xy), size_hw[0] * size_hw[1]
    if objects * pixels > OBJECTS_AT_FULL_SIZE * limits.max_pixels:
        most = OBJECTS_AT_FULL_SIZE * limits.max_pixels // pixels
        raise DataError(f"An image of this size may be asked for {counted(most, 'object')} at once, but got {objects}.")


def _answer(found: Sequence[Instance], output: Form_, size_hw: tuple[int, int], classes: Sequence[str]) -> Response:
    if output == "png":
        return Response(_class_png(found, size_hw, classes), media_type="image/png")
    entries = instances_json(found, classes)
    if output == "polygons":
        if sum(len(i.mask.counts) for i in found if i.mask) > _MOST_RUNS:
            raise DataError("These masks are too ragged for polygons. Ask for `output=coco`.")
        for entry, instance in zip(entries, found, strict=True):
            entry["segmentation"] = outlines(instance.mask) if instance.mask else []
    answer = {"size_hw": size_hw, "classes": list(classes), "instances": entries}
    return Response(json.dumps(answer, separators=(",", ":")), media_type="application/json")


def _class_png(found: Sequence[Instance], size_hw: tuple[int, int], classes: Sequence[str]) -> bytes:
    numbers_HW = np.zeros(size_hw, np.uint8 if len(classes) < 2**8 else np.uint16)
    for instance in sorted(found, key=lambda i: i.score):
        if instance.mask:
            cut = masks.tight_cut(instance.mask)
            numbers_HW[cut][masks.decode_cut(instance.mask, cut)] = classes.index(instance.label) + 1
    done, data = cv2.imencode(".png", numbers_HW)
    assert done
    return data.tobytes()
