"""A model folder from anywhere: it is built from what lies in it, or refused; nothing is asked for, little is taken."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from segdist.core import registry
from segdist.core.errors import SegdistError, WeightsError
from segdist.core.plugins import declaration
from segdist.core.published import PublishedWeights, WeightFile
from segdist.core.spec import ModelSpec, RunSpec
from segdist.engine import checkpoint
from segdist.exporting import export
from segdist.models import sam
from segdist.models.yolo.architecture import _debug
from segdist.models.yolo.quietly import SegmentationModel
from tests.engine.shipped import CLASSES, model_folder

FAMILIES = tuple(registry.names("models"))
WITH_WEIGHTS = tuple(f for f in FAMILIES if f != "classical")


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and what it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No connection is opened and no name looked up."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        tried.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert tried == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model") / "unet", "unet_cbam")


def described(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The folder with another description."""
    content = json.loads((folder / checkpoint.DESCRIPTION).read_text())
    change(content)
    (folder / checkpoint.DESCRIPTION).write_text(json.dumps(content))
    return folder


def copied(trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    return described(Path(shutil.copytree(trained, tmp_path / "copy")), change)


def named(family: str, place: str, tmp_path: Path) -> Path:
    """A model folder whose description names a place."""
    tmp_path.mkdir(exist_ok=True)
    save_file({"a": torch.zeros(1)}, tmp_path / checkpoint.WEIGHTS)
    options = {**declaration(family).debug, "weights": place}
    if family == "unet_cbam":
        options |= {"backbone": "resnet18"}
    content = {
        "schema_version": 1,
        "model": {"family": family, family: options},
        "adapter": {},
        "classes": ["a"],
        "evaluate": {},
        "frozen_digest": "0" * 16,
    }
    (tmp_path / checkpoint.DESCRIPTION).write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("family", WITH_WEIGHTS)
@pytest.mark.parametrize("place", ["http", "hub", "path", "relative", "file", "s3"])
def test_no_folder_from_elsewhere_names_another_place(
    place: str, family: str, asked: tuple[str, list[str]], tmp_path: Path
) -> None:
    server, paths = asked
    secret = tmp_path / "secret"
    secret.mkdir()
    where = {
        "http": f"{server}/weights.pt",
        "hub": "evil/model",
        "path": str(secret),
        "relative": "../secret",
        "file": f"file://{secret}",
        "s3": "s3://evil/weights.pt",
    }[place]
    folder = named(family, where, tmp_path / "model")
    with pytest.raises(WeightsError, match=r"A model folder from elsewhere must hold all that it needs") as caught:
        checkpoint.load(folder)
    assert f"`weights: {where}`" in str(caught.value)
    assert f"{checkpoint.TRUSTED}={folder}" in str(caught.value)
    with pytest.raises(WeightsError, match="names `weights"):
        checkpoint.check_closed(folder)
    assert paths == []


def test_weights_that_a_library_would_download_by_name_are_another_place(no_network: None, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="names `weights: published`"):
        checkpoint.load(named("unet_cbam", "published", tmp_path))


@pytest.mark.parametrize("backbone", ["hf-hub:evil/model", "local-dir:/etc", "timm/resnet18", "../x", ""])
def test_a_backbone_is_a_name_of_the_library(backbone: str, no_network: None, tmp_path: Path) -> None:
    folder = described(
        named("unet_cbam", "random", tmp_path), lambda c: c["model"]["unet_cbam"].update(backbone=backbone)
    )
    with pytest.raises(WeightsError, match=r"model\.json is damaged"):
        checkpoint.load(folder)


def test_the_codec_of_paligemma_is_another_place(asked: tuple[str, list[str]], tmp_path: Path) -> None:
    server, paths = asked
    folder = described(
        named("paligemma", "random", tmp_path), lambda c: c["model"]["paligemma"].update(codec=f"{server}/vae-oid.npz")
    )
    with pytest.raises(WeightsError, match=rf"names `codec: {server}/vae-oid\.npz`"):
        checkpoint.load(folder)
    assert paths == []


def test_a_folder_that_is_trusted_may_name_its_weights(asked: tuple[str, list[str]], tmp_path: Path) -> None:
    server, paths = asked
    before = len(paths)
    with pytest.raises(SegdistError):
        checkpoint.load(named("yolo", f"{server}/weights.pt", tmp_path), trusted=True)
    assert "/weights.pt" in paths[before:]
    paths.clear()


@pytest.mark.parametrize(
    "base",
    ["..", "/etc", "../other", "a/b", "a/..", "s3://x", "http://x", "no", "", 3, ["base"], {"a": 1}],
    ids=str,
)
def test_the_base_lies_in_the_folder(base: Any, trained: Path, tmp_path: Path) -> None:
    copy = copied(trained, tmp_path, lambda c: c.update(base=base))
    if base == "":
        assert checkpoint.load(copy) is not None
        return
    with pytest.raises(WeightsError, match=r"model\.json: `base` must be the name of a folder beside it"):
        checkpoint.load(copy)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with its base weights beside it, in a folder of their own and in the same one."""
    root = tmp_path_factory.mktemp("exported")
    seed = checkpoint.load(model_folder(root / "seed", "mask2former"))
    seed.model.save_pretrained(root / "source")  # type: ignore[union-attr, operator]
    trained = model_folder(root / "trained", "mask2former", weights=str(root / "source"))
    network, description = export.load_merged(trained, trusted=True)
    for base in (export.BASE, "."):
        export.write(network, description, root / f"out-{base}", base=base)
    return {base: root / f"out-{base}" for base in (export.BASE, ".")}


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.DESCRIPTION, "base/config.json", "base"])
def test_links_do_not_lead_out_of_a_folder(name: str, exported: dict[str, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported[export.BASE], tmp_path / "out"))
    (out / name).rename(tmp_path / "elsewhere")
    (out / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=rf"names .*the link `{name}"):
        checkpoint.load(out)
    assert checkpoint.load(out, trusted=True) is not None


@pytest.mark.parametrize("family", ["unet_cbam", "sam", "yolo"])
def test_a_folder_that_holds_all_tensors_needs_no_base(family: str, no_network: None, tmp_path: Path) -> None:
    if family == "unet_cbam":
        options: dict[str, Any] = {"backbone": "test_resnet.r160_in1k", "weights": "random", "image_size": 64}
    else:
        options = {}
    folder = model_folder(tmp_path / "model", family, **options)
    before = load_file(folder / checkpoint.WEIGHTS)
    described(folder, lambda c: c["model"][family].update(weights="/nowhere/base.pt"))
    after = checkpoint.load(folder).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_yolo_is_described_with_the_size_that_its_weights_brought(tmp_path: Path) -> None:
    torch.save({"model": SegmentationModel(_debug(), nc=2, verbose=False)}, tmp_path / "best.pt")
    content = {"family": "yolo", "yolo": {"weights": str(tmp_path / "best.pt"), "image_size": 64}}
    run = RunSpec(model=ModelSpec.model_validate(content))
    checkpoint.save(checkpoint.build(run.model, CLASSES), tmp_path / "model", run, CLASSES)
    (tmp_path / "best.pt").unlink()
    assert checkpoint.load(tmp_path / "model") is not None


@pytest.mark.parametrize("base", [export.BASE, "."])
def test_a_folder_at_a_uri_comes_with_its_base(base: str, exported: dict[str, Path]) -> None:
    place = f"memory://bucket/{len(base)}"
    fsspec.filesystem("memory").put(f"{exported[base]}/", place, recursive=True)
    with checkpoint.fetched(place) as folder:
        assert checkpoint.load(folder) is not None


ABSURD: dict[str, Callable[[dict[str, Any]], object]] = {
    "width": lambda c: c["model"]["unet_cbam"].update(width=10**9),
    "width_just_allowed": lambda c: c["model"]["unet_cbam"].update(width=1024, depth=6),
    "negative_width": lambda c: c["model"]["unet_cbam"].update(width=-8),
    "float_width": lambda c: c["model"]["unet_cbam"].update(width=float("nan")),
    "depth": lambda c: c["model"]["unet_cbam"].update(depth=10**5),
    "image_size": lambda c: c["model"]["unet_cbam"].update(image_size=2**20),
    "rank": lambda c: c.update(adapter={"kind": "lora", "rank": 10**6}),
    "rank_just_allowed": lambda c: c.update(adapter={"kind": "lora", "rank": 1024}),
    "zero_rank": lambda c: c.update(adapter={"kind": "lora", "rank": 0}),
    "experts": lambda c: c.update(adapter={"kind": "conv_lora", "experts": 10**9}),
    "kind": lambda c: c.update(adapter={"kind": "evil"}),
    "targets": lambda c: c.update(adapter={"kind": "lora", "targets": ["nothing"]}),
    "family": lambda c: c.update(model={"family": "../../evil"}),
    "no_family": lambda c: c.update(model={}),
    "other_family": lambda c: c.update(model={"family": "sam", "sam": {"size": "vit_h", "weights": "random"}}),
    "options": lambda c: c["model"].update(unet_cbam=[1]),
    "unknown_option": lambda c: c["model"]["unet_cbam"].update(evil=1),
    "classes": lambda c: c.update(classes=[str(k) for k in range(10**5)]),
    "same_classes": lambda c: c.update(classes=["a", "a"]),
    "empty_class": lambda c: c.update(classes=[""]),
    "long_class": lambda c: c.update(classes=["x" * 10**6]),
    "class_numbers": lambda c: c.update(classes=[1, 2]),
    "classes_text": lambda c: c.update(classes="roof"),
    "seed": lambda c: c.update(seed=2**200),
    "negative_seed": lambda c: c.update(seed=-1),
    "seed_text": lambda c: c.update(seed="evil"),
    "seed_infinite": lambda c: c.update(seed=float("inf")),
    "batch_size": lambda c: c["evaluate"].update(batch_size=10**9),
    "overlap": lambda c: c["evaluate"].update(tile={"size": 100, "overlap": 0.999}),
    "radius": lambda c: c["evaluate"]["post"].update(radius=10**9),
    "min_score": lambda c: c["evaluate"].update(min_score=float("nan")),
    "digest": lambda c: c.update(frozen_digest=["a"]),
    "long_digest": lambda c: c.update(frozen_digest="a" * 10**6),
    "version": lambda c: c.update(schema_version=2),
    "odd_version": lambda c: c.update(schema_version={"a": 1}),
}


@pytest.mark.parametrize("case", ABSURD)
def test_an_absurd_description_is_an_error_that_names_the_folder(
    case: str, trained: Path, no_network: None, tmp_path: Path
) -> None:
    copy = copied(trained, tmp_path, ABSURD[case])
    with pytest.raises(SegdistError, match=r"copy/model\.json|`train\.adapter|weights\.safetensors does not fit"):
        checkpoint.load(copy)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff\xfe\0", b'{"a":' * 10**5, b"[" * 10**6, b"\x00" * 99])
def test_a_description_that_is_no_json_is_named(text: bytes, trained: Path, tmp_path: Path) -> None:
    copy = copied(trained, tmp_path, lambda _: None)
    (copy / checkpoint.DESCRIPTION).write_bytes(text)
    with pytest.raises(WeightsError, match=r"copy/model\.json"):
        checkpoint.load(copy)


def test_a_description_that_never_ends_is_no_file(trained: Path, tmp_path: Path) -> None:
    copy = copied(trained, tmp_path, lambda _: None)
    (copy / checkpoint.DESCRIPTION).unlink()
    os.mkfifo(copy / checkpoint.DESCRIPTION)
    with pytest.raises(WeightsError, match="is not a segdist model"):
        checkpoint.load(copy)


CHANGED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "shape": lambda v: v.reshape(-1)[:1],
    "long": lambda v: v.long(),
    "nan": lambda v: torch.full_like(v, float("nan")),
    "infinity": lambda v: torch.full_like(v, float("inf")),
}


@pytest.mark.parametrize("case", CHANGED)
def test_tensors_that_are_not_the_network_s_are_refused(case: str, trained: Path, tmp_path: Path) -> None:
    copy = copied(trained, tmp_path, lambda _: None)
    state = load_file(copy / checkpoint.WEIGHTS)
    name = next(k for k, v in state.items() if v.is_floating_point() and v.numel() > 1)
    save_file({**state, name: CHANGED[case](state[name])}, copy / checkpoint.WEIGHTS)
    with pytest.raises(WeightsError, match=r"does not fit the model|must hold finite numbers") as caught:
        checkpoint.load(copy)
    assert name in str(caught.value)


def test_tensors_too_many_or_too_few_are_named(trained: Path, tmp_path: Path) -> None:
    copy = copied(trained, tmp_path, lambda _: None)
    state = load_file(copy / checkpoint.WEIGHTS)
    for changed in ({**state, "evil": torch.zeros(1)}, dict(list(state.items())[1:]), {}):
        save_file(changed, copy / checkpoint.WEIGHTS)
        with pytest.raises(WeightsError, match="does not fit the model it describes"):
            checkpoint.load(copy)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """The tiny SAM, as if it were published and not shipped; a model that was trained on it names it."""
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    content = sam.SHIPPED_FILE.read_bytes()
    file = WeightFile("tiny.safetensors", "https://nowhere.invalid", len(content), sha256(content).hexdigest())
    weights = PublishedWeights("tiny_sam", "Apache-2.0", (file,), {"size": "tiny"})
    monkeypatch.setattr(sam, "PUBLISHED", (weights,))
    monkeypatch.setattr(sam, "FAMILY", replace(sam.FAMILY, published=(weights,)))
    monkeypatch.setattr(checkpoint, "SELF_CONTAINED_BYTES", 0)
    weights.place.parent.mkdir(parents=True)
    weights.place.write_bytes(content)
    return weights


def test_a_model_on_published_weights_moves_to_a_machine_that_fetches_them(
    published: PublishedWeights, no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "model", "sam", adapter="lora", weights="tiny_sam", image_size=64)
    assert checkpoint.describe(folder).frozen_digest, "the base is not in it"
    before = checkpoint.load(folder).state_dict()
    monkeypatch.setattr("segdist.nets.network_size.BEYOND_THE_FILE", 0)
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "another machine"))
    checkpoint.check_closed(folder)
    with pytest.raises(WeightsError, match="segdist weights get tiny_sam"):
        checkpoint.load(folder)
    published.place.parent.mkdir(parents=True)
    published.place.write_bytes(sam.SHIPPED_FILE.read_bytes())
    after = checkpoint.load(folder).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    described(folder, lambda c: c["model"]["sam"].update(weights="sam_tiny"))
    with pytest.raises(WeightsError, match="names `weights: sam_tiny`"):
        checkpoint.load(folder)


def test_a_model_on_published_weights_is_exported_with_them(published: PublishedWeights, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "sam", adapter="lora", weights="tiny_sam", image_size=64)
    network, description = export.load_merged(folder)
    export.write(network, description, tmp_path / "out")
    shutil.rmtree(published.place.parent)
    assert checkpoint.load(tmp_path / "out") is not None
