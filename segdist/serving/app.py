"""The HTTP application: image and prompt in; COCO annotations, polygons or a PNG out."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from segdist import masks
from segdist.data.answers import PromptRequest, instances_json, read_prompt
from segdist.data.examples import decode_image
from segdist.data.images import TooLargeError, header_of
from segdist.data.outlines import outlines
from segdist.errors import DataError, SegdistError
from segdist.plugins import ImageHWC
from segdist.records import Instance, Prompt
from segdist.serving.guard import Guard

Ask = Callable[[ImageHWC, Prompt], Awaitable[tuple[Instance, ...]]]
"""Whoever holds the model."""
Form_ = Literal["coco", "polygons", "png"]


class BusyError(Exception):
    """More requests wait than the model can take."""


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


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        max_bytes: of the whole request.
        max_pixels: of an image, looked up in its header before it is decoded.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000


def make_app(ask: Ask, about: About, *, token: str, limits: Limits | None = None) -> Any:
    """The application, guarded.

    Args:
        ask: finds instances in an image.
        about: the model.
        token: that requests must carry.
        limits: what they may cost.
    """
    limits = limits or Limits()
    app = FastAPI(title=f"segdist: {about.name}", description=_DESCRIPTION, version="1", redoc_url=None)
    counts = _Counts()

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        """A page to drop an image on."""
        return files("segdist.serving").joinpath("page.html").read_text("utf-8")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the model answers: it is shown an image of one colour."""
        size = 32
        prompt = Prompt() if "none" in about.prompts else Prompt(((0, 0, size, size),), (about.classes[0],))
        try:
            await ask(np.zeros((size, size, 3), np.uint8), prompt)
        except BusyError:
            return {"status": "busy", "model": about.name}
        return {"status": "ok", "model": about.name}

    @app.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Requests, refusals and seconds, for Prometheus."""
        return Response(generate_latest(counts.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/model")
    def model() -> dict[str, Any]:
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

    @app.post("/v1/segment", response_model=None, responses={200: {"content": {"image/png": {}}}})
    async def segment(
        image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, TIFF or BMP.")],
        prompt: Annotated[str, Form(description="JSON, see /v1/model; empty tells nothing.")] = "",
        output: Annotated[Form_, Form(description="coco: run lengths. polygons. png: numbers of classes.")] = "coco",
        min_score: Annotated[float | None, Form(ge=0, le=1, description="Leave out what is scored lower.")] = None,
    ) -> Any:
        """Find instances in an image."""
        started = time.perf_counter()
        with counts.counted():
            pixels_HWC = await run_in_threadpool(_decoded, await image.read(), limits)
            size_hw = pixels_HWC.shape[0], pixels_HWC.shape[1]
            told = read_prompt(prompt, size_hw=size_hw, classes=about.classes, understood=about.prompts)
            found = await ask(pixels_HWC, told)
            kept = [
                i for i in found if (about.accepts(i.label, i.score) if min_score is None else i.score >= min_score)
            ]
            answer = await run_in_threadpool(_answer, kept, output, size_hw, about.classes)
        counts.seconds.observe(time.perf_counter() - started)
        return answer

    return Guard(app, token=token, max_bytes=limits.max_bytes)


_DESCRIPTION = "Segmentation of an image, with or without a prompt. All paths but /health need `Authorization: Bearer`."


class _Counts:
    """Metrics of this process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("segdist_requests", "Requests to segment", ["outcome"], registry=self.registry)
        self.seconds = Histogram("segdist_request_seconds", "Seconds of a request", registry=self.registry)

    def counted(self) -> "_Counted":
        return _Counted(self)


class _Counted:
    """Counts how a request ends, and turns what users can mend into answers of 4xx."""

    def __init__(self, counts: _Counts) -> None:
        self._counts = counts

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        outcome = "ok" if error is None else "refused" if isinstance(error, SegdistError | HTTPException) else "failed"
        self._counts.requests.labels("busy" if isinstance(error, BusyError) else outcome).inc()
        if isinstance(error, SegdistError):
            raise HTTPException(422, str(error)) from error
        if isinstance(error, BusyError):
            raise HTTPException(503, "Too many requests wait. Try again soon.", {"Retry-After": "1"}) from error


def _decoded(content: bytes, limits: Limits) -> ImageHWC:
    """The pixels; what its header claims decides before anything is decoded.

    Raises:
        HTTPException: 413 for too many pixels, 422 where it is no complete image.
    """
    try:
        height, width = header_of(content, name="`image`").size_hw
        if height * width <= limits.max_pixels:
            return decode_image(content, name="`image`")
    except TooLargeError as error:
        raise HTTPException(413, str(error)) from error
    except DataError as error:
        raise HTTPException(422, str(error)) from error
    raise HTTPException(
        413, f"An image may have {limits.max_pixels:,} pixels at most, but this one has {width} x {height}."
    )


def _answer(found: Sequence[Instance], output: Form_, size_hw: tuple[int, int], classes: Sequence[str]) -> Any:
    if output == "png":
        return Response(_class_png(found, size_hw, classes), media_type="image/png")
    entries = instances_json(found, classes)
    if output == "polygons":
        for entry, instance in zip(entries, found, strict=True):
            entry["segmentation"] = outlines(instance.mask) if instance.mask else []
    return {"size_hw": size_hw, "classes": list(classes), "instances": entries}


def _class_png(found: Sequence[Instance], size_hw: tuple[int, int], classes: Sequence[str]) -> bytes:
    numbers_HW = np.zeros(size_hw, np.uint8 if len(classes) < 2**8 else np.uint16)
    for instance in sorted(found, key=lambda i: i.score):
        if instance.mask:
            numbers_HW[masks.decode(instance.mask)] = classes.index(instance.label) + 1
    done, data = cv2.imencode(".png", numbers_HW)
    assert done
    return data.tobytes()
