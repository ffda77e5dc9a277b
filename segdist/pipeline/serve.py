"""`segdist serve`: a model on Ray Serve, with requests put together into batches."""

import ipaddress
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from segdist.commands.model import model_folder
from segdist.core import extras
from segdist.core.errors import BackendError, SpecError
from segdist.core.plugins import ImageHWC, declaration
from segdist.core.records import Instance, Prompt
from segdist.core.terminal import say
from segdist.pipeline.cluster import connected
from segdist.pipeline.gpus import given
from segdist.pipeline.predictor import PackedModel, packed
from segdist.serving.limits import BusyError, Limits

if TYPE_CHECKING:
    from segdist.serving.app import About

APP, MODEL = "segdist", "Model"
_LONGEST_TOKEN = 4_000


@dataclass(frozen=True)
class Address:
    """Where it listens, and the token that requests must carry.

    Attributes:
        host: a name or an address of this machine.
        port: the port.
        token: never printed but where `is_drawn`.
        is_drawn: whether the token was drawn here, so that only who reads the output knows it.
        names: under which it may be asked, beside `host`.
    """

    host: str
    port: int
    token: str = field(repr=False)
    is_drawn: bool = False
    names: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """Under which everything is served."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"

    @property
    def url(self) -> str:
        """The page, with a token that was drawn behind `#`, which browsers do not send."""
        return f"{self.root}#token={self.token}" if self.is_drawn else self.root


def address(host: str, port: int, *, token: str, token_file: Path | None, names: Collection[str] = ()) -> Address:
    """Where to listen; without a token one is drawn.

    Raises:
        SpecError: the token file is not there or holds none, or the token is too short to keep anybody out.
    """
    if token_file is not None:
        token = _token_in(token_file)
    if (token or token_file) and not 16 <= len(token) <= _LONGEST_TOKEN:
        raise SpecError(
            f"A token must have 16 characters or more, {_LONGEST_TOKEN:,} at most, but this has {len(token):,}."
        )
    if not token.isprintable():
        raise SpecError("A token must be one line that can be printed, as it is written in a header of requests.")
    if not token and not _is_loopback(host):
        raise SpecError(f"To listen on {host}, where others can reach it, set SEGDIST_TOKEN or name a --token-file.")
    return Address(host, port, token or secrets.token_urlsafe(24), is_drawn=not token, names=tuple(names))


def _token_in(file: Path) -> str:
    if not file.is_file():
        raise SpecError(f"`--token-file` must be a file with a token, but there is no {file}.")
    if file.stat().st_mode & 0o077:
        say(f"warning   others can read {file} and the token in it (chmod 600 helps)")
    with file.open("rb") as opened:
        content = opened.read(4 * _LONGEST_TOKEN)
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise SpecError(f"A token must be text in UTF-8, but {file} holds something else.") from error


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
        BackendError: the address is taken or not this machine's, or the model does not start.
    """
    try:
        from ray import serve as ray_serve

        from segdist.serving.app import make_app
        from segdist.serving.server import Server, bound
    except ModuleNotFoundError as error:
        raise SpecError(f"Serving needs the library `{error.name}`. Install it: {extras.install('uvicorn')}") from error
    # Ray gives workers the lowest priority but four; whoever waits for an answer must not wait for everything else.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with bound(where.host, where.port) as listening:
        with model_folder(model, storage, tracking) as (folder, trusted):
            files, about = packed(folder, trusted=trusted), _about(model, folder)
        with connected() as ray:
            try:
                handle = _start(ray, ray_serve, files, replicas, max_batch, limits.max_waiting)
            except Exception as error:  # Ray raises anything here, bare Exception included
                raise BackendError(f"{model} cannot be served: {error}") from error
            names = (where.host, *where.names)
            app = make_app(AskRay(handle), about, token=where.token, hosts=names, limits=limits)
            ready = f"serving   {where.url}\ndocs      {where.root}docs"
            tell = partial(say, reveal=where.token if where.is_drawn else "")
            try:
                Server(app, limits=limits, say=tell, ready=ready).run(sockets=[listening])
            finally:
                ray_serve.delete(APP)  # a cluster of others keeps theirs
    say("stopped")


class Model:
    """A replica that holds the network."""

    def __init__(self, model: PackedModel) -> None:
        import torch

        torch.set_num_threads(1)
        self._network, self._evaluate = model.load()

    def find(self, images: list[ImageHWC], prompts: list[Prompt]) -> list[tuple[Instance, ...]]:
        """Instances of each image."""
        import torch

        from segdist.engine.predict import segment

        with torch.inference_mode():
            return segment(self._network, images, prompts, self._evaluate)


class AskRay:
    """Asks the deployment that holds the model.

    Args:
        handle: of the deployment.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def __call__(self, image_HWC: ImageHWC, prompt: Prompt) -> tuple[Instance, ...]:
        """Instances of one image.

        Raises:
            BusyError: too many wait, or the model is being started again.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        try:
            found: tuple[Instance, ...] = await self._handle.find_one.remote((image_HWC, prompt))
        except (BackPressureError, DeploymentUnavailableError, RayActorError) as error:
            raise BusyError from error
        return found


def _start(
    ray: ModuleType, ray_serve: ModuleType, files: PackedModel, replicas: int, max_batch: int, max_waiting: int
) -> Any:
    """The model as a deployment.

    Only Python asks it: Ray's own HTTP server holds bodies of any size and number, and waits for slow ones forever.
    """

    class Batching(Model):
        @ray_serve.batch(max_batch_size=max_batch, batch_wait_timeout_s=0.01)
        async def find_one(self, asked: list[tuple[ImageHWC, Prompt]]) -> list[tuple[Instance, ...]]:
            return self.find([image for image, _ in asked], [prompt for _, prompt in asked])

    has_gpu = given("auto", ray).gpus > 0
    model = ray_serve.deployment(
        Batching,
        name=MODEL,
        num_replicas=replicas,
        max_ongoing_requests=2 * max_batch,
        max_queued_requests=max_waiting,
        ray_actor_options={"num_cpus": 0.5, "num_gpus": 1 / replicas if has_gpu else 0},
    )
    ray_serve.start(proxy_location="Disabled")
    return ray_serve.run(model.bind(files), name=APP, route_prefix=None)


def _about(model: str, folder: Path) -> "About":
    from segdist.engine import checkpoint
    from segdist.serving.app import About

    description = checkpoint.describe(folder)
    declared = declaration(description.model.family)
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
