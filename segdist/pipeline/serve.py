"""`segdist serve`: a model on Ray Serve, with requests put together into batches."""

import ipaddress
import os
import secrets
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segdist.errors import BackendError, SpecError
from segdist.pipeline.cluster import connected
from segdist.pipeline.predictor import Files, packed, unpack
from segdist.pipeline.score import model_folder
from segdist.plugins import ImageHWC
from segdist.records import Instance, Prompt
from segdist.serving.app import About, BusyError, Limits, make_app
from segdist.terminal import say

APP, MODEL = "segdist", "Model"
_MINUTES = 5
MOST_WAITING = 256
"""Requests that may wait for the model; more are told to come again."""


@dataclass(frozen=True)
class Address:
    """Where it listens, and the token that requests must carry."""

    host: str
    port: int
    token: str

    @property
    def url(self) -> str:
        """The page, with the token behind `#`, which browsers do not send."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/#token={self.token}"


def address(host: str, port: int, *, token: str, token_file: Path | None) -> Address:
    """Where to listen; without a token one is drawn.

    Raises:
        SpecError: the token file is not there or empty, or the token is too short to keep anybody out.
    """
    if token_file is not None:
        if not token_file.is_file():
            raise SpecError(f"`--token-file` must be a file with a token, but there is no {token_file}.")
        token = token_file.read_text("utf-8").strip()
    if (token or token_file) and len(token) < 16:
        raise SpecError(f"A token must have 16 characters or more, but this one has {len(token)}.")
    if not token and not _is_loopback(host):
        raise SpecError(f"To listen on {host}, where others can reach it, set SEGDIST_TOKEN or name a --token-file.")
    return Address(host, port, token or secrets.token_urlsafe(24))


def serve(
    model: str,
    where: Address,
    *,
    limits: Limits,
    replicas: int,
    max_batch: int,
    storage: str,
    tracking: str,
) -> None:
    """Serve a model until interrupted.

    Args:
        model: `NAME@champion`, `NAME@VERSION`, a run id, or a model folder.
        where: where to listen.
        limits: what a request may cost.
        replicas: models side by side.
        max_batch: most images of one prediction.
        storage: of the sweep that trained the model.
        tracking: its MLflow URI, or "embedded".

    Raises:
        SpecError: Ray Serve is not installed.
        BackendError: the port is taken, or the model does not start.
    """
    with model_folder(model, storage, tracking) as folder:
        files, about = packed(folder), _about(model, folder)
    try:
        from ray import serve as ray_serve
    except ModuleNotFoundError as error:
        raise SpecError(f"Serving needs `{error.name}`. Install it: pip install 'segdist[serve]'") from error
    # Ray gives workers the lowest priority but four; whoever waits for an answer must not wait for everything else.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with connected() as ray:
        signal.signal(signal.SIGTERM, _interrupt)  # after Ray's start, which sets handlers of its own
        try:
            _start(ray_serve, where)
            application = _application(ray, ray_serve, files, about, where, limits, replicas, max_batch)
            ray_serve.run(application, name=APP, route_prefix="/")
        except Exception as error:  # Ray raises anything here, bare Exception included
            raise BackendError(f"{model} cannot be served at {where.host}:{where.port}: {error}") from error
        say(f"serving   {where.url}", reveal=where.token)
        say(f"docs      http://{where.host}:{where.port}/docs")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            say("stopped")
        finally:
            ray_serve.shutdown()


def _start(ray_serve: Any, where: Address) -> None:
    """Begin to listen; Ray waits a minute for its proxy, which a busy machine may need more of."""
    for patience in reversed(range(_MINUTES)):
        try:
            ray_serve.start(http_options={"host": where.host, "port": where.port})
            return
        except TimeoutError:
            if not patience:
                raise


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


class Model:
    """A replica that holds the network."""

    def __init__(self, files: Files) -> None:
        import torch

        from segdist.engine import checkpoint
        from segdist.engine.workers import Workers

        torch.set_num_threads(1)
        with TemporaryDirectory(prefix="segdist-") as folder:
            unpack(files, Path(folder))
            self._evaluate = checkpoint.describe(Path(folder)).evaluate
            self._network: Any = checkpoint.load(Path(folder), device=Workers.here().device)

    def find(self, images: list[ImageHWC], prompts: list[Prompt]) -> list[tuple[Instance, ...]]:
        """Instances of each image."""
        import torch

        from segdist.engine.predict import segment

        with torch.inference_mode():
            return segment(self._network, images, prompts, self._evaluate)


class AskRay:
    """Asks the deployment that holds the model; made anew in the process that answers requests."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def __call__(self, image_HWC: ImageHWC, prompt: Prompt) -> tuple[Instance, ...]:
        """Instances of one image.

        Raises:
            BusyError: too many wait.
        """
        from ray import serve as ray_serve
        from ray.serve.exceptions import BackPressureError

        if self._handle is None:
            self._handle = ray_serve.get_deployment_handle(MODEL, APP)
        try:
            found: tuple[Instance, ...] = await self._handle.find_one.remote((image_HWC, prompt))
        except BackPressureError as error:
            raise BusyError from error
        return found


def _application(
    ray: Any,
    ray_serve: Any,
    files: Files,
    about: About,
    where: Address,
    limits: Limits,
    replicas: int,
    max_batch: int,
) -> Any:
    """Two deployments: one answers requests and stays responsive, the other computes."""

    class Batching(Model):
        @ray_serve.batch(max_batch_size=max_batch, batch_wait_timeout_s=0.01)
        async def find_one(self, asked: list[tuple[ImageHWC, Prompt]]) -> list[tuple[Instance, ...]]:
            return self.find([image for image, _ in asked], [prompt for _, prompt in asked])

    def build() -> Any:
        return make_app(AskRay(), about, token=where.token, limits=limits)

    @ray_serve.ingress(build)
    class Gate:
        def __init__(self, model: Any) -> None:
            self._model = model

    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    model = ray_serve.deployment(
        Batching,
        name=MODEL,
        num_replicas=replicas,
        max_ongoing_requests=2 * max_batch,
        max_queued_requests=MOST_WAITING,
        ray_actor_options={"num_cpus": 0.5, "num_gpus": 1 / replicas if has_gpu else 0},
    )
    gate = ray_serve.deployment(
        Gate, name="Gate", max_ongoing_requests=MOST_WAITING, ray_actor_options={"num_cpus": 0.1}
    )
    return gate.bind(model.bind(files))


def _about(model: str, folder: Path) -> About:
    from segdist.engine import checkpoint

    description = checkpoint.describe(folder)
    declared = checkpoint.declaration(description.model.family)
    options = declared.options.model_validate(description.model.family_options())
    name = model if "@" in model else Path(model).name
    evaluate = description.evaluate
    return About(
        name=name,
        family=description.model.family,
        classes=description.classes,
        prompts=declared.prompts(options),
        min_score=evaluate.min_score,
        accepts=evaluate.accepts,
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
