"""Every command that takes a model folder: one from elsewhere is held to itself, one's own is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from segdist.cli import app
from segdist.commands.evaluate import evaluate as score
from segdist.commands.export import export_model
from segdist.commands.model import is_trusted, model_folder
from segdist.core.errors import WeightsError
from segdist.core.panels import encode_png
from segdist.engine import checkpoint
from segdist.formats.synthetic.scenes import draw
from segdist.pipeline.predict import predict_images
from segdist.pipeline.predictor import packed
from segdist.sweepfile.loading import load as load_sweep
from tests.engine import shipped

Run = Callable[[str, Path, str], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A SAM whose large frozen weights lie in a file elsewhere."""
    torch.manual_seed(0)
    seed: Any = checkpoint.load(shipped.model_folder(tmp_path / "seed", "sam", prompt="class"))
    base = {k: v for k, v in seed.state_dict().items() if not k.startswith("class_")}
    torch.save(base, tmp_path / "base.pth")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "SELF_CONTAINED_BYTES", 0)
        return shipped.model_folder(
            tmp_path / "mine" / "model",
            "sam",
            adapter="frozen_encoder",
            prompt="class",
            weights=str(tmp_path / "base.pth"),
        )


def predict(model: str, out: Path, storage: str) -> object:
    return predict_images(model, [_image(out)], str(out / "found"), storage_uri=storage, tracking="embedded", actors=1)


def evaluate(model: str, out: Path, storage: str) -> object:
    return score(model, str(out), storage=storage)


def export(model: str, out: Path, storage: str) -> object:
    return export_model(model, "safetensors", out / "exported", storage=storage, tracking="embedded")


def serve(model: str, out: Path, storage: str) -> object:
    with model_folder(model, storage, "embedded") as (found, trusted):
        return packed(found, trusted=trusted)


def _image(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "one.png").write_bytes(encode_png(draw("roofs", 5, 64)[0]))
    return str(folder / "one.png")


@pytest.mark.parametrize("run", [predict, evaluate, export, serve], ids=lambda run: run.__name__)
def test_a_folder_from_elsewhere_names_nothing(run: Run, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"names `weights: .*base\.pth`.*SEGDIST_TRUSTED_MODELS="):
        run(str(folder), tmp_path / "out", str(tmp_path / "storage"))


@pytest.mark.parametrize("run", [predict, export, serve], ids=lambda run: run.__name__)
def test_what_lies_in_the_storage_folder_may(run: Run, folder: Path, tmp_path: Path) -> None:
    assert run(str(folder), tmp_path / "out", str(tmp_path / "mine"))


def test_what_its_user_trusts_may(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checkpoint.TRUSTED, f"/nowhere, {folder}")
    assert predict(str(folder), tmp_path / "out", str(tmp_path / "storage"))


def test_what_was_exported_needs_nobody_s_trust(folder: Path, tmp_path: Path) -> None:
    export(str(folder), tmp_path / "out", str(tmp_path / "mine"))
    (tmp_path / "base.pth").unlink()
    assert predict(str(tmp_path / "out" / "exported"), tmp_path / "out", str(tmp_path / "storage"))


def test_a_teacher_from_elsewhere_is_not_copied_into_the_storage_folder(folder: Path, tmp_path: Path) -> None:
    from segdist.pipeline.label import checked_teacher

    (tmp_path / "sweep.yaml").write_text(
        f"name: x\nstorage: {tmp_path}/storage\ndata: {{sources: [{{format: synthetic, scene: roofs}}]}}\n"
        f"model: {{family: unet_cbam}}\nlabel: {{teacher: {{trained: {folder}}}, prompt: {{strategy: whole_image}}}}\n"
    )
    spec = load_sweep(str(tmp_path / "sweep.yaml"))
    assert spec.label is not None
    with pytest.raises(WeightsError, match="A model folder from elsewhere"):
        checked_teacher(spec, spec.label)
    assert not (tmp_path / "storage" / "teachers").exists()
    own = spec.model_copy(update={"storage": str(tmp_path / "mine")})
    assert checked_teacher(own, spec.label).startswith(str(tmp_path / "mine" / "teachers"))


def test_links_and_dots_do_not_make_a_place_the_storage_folder(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    (storage / "runs").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (storage / "link").symlink_to(tmp_path / "other")
    assert is_trusted(str(storage / "runs"), str(storage))
    assert not is_trusted(str(storage / "link"), str(storage))
    assert not is_trusted(f"{storage}/../other", str(storage))
    assert not is_trusted(f"{storage}-evil", str(storage))
    assert is_trusted("s3://bucket/storage/kept", "s3://bucket/storage")
    assert not is_trusted("s3://bucket/storage-evil/kept", "s3://bucket/storage")
    assert not is_trusted("s3://bucket/storage/../evil", "s3://bucket/storage")
    assert not is_trusted("s3://bucket/storage", str(storage))


def test_the_command_says_how_to_trust(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["predict", str(folder), _image(tmp_path / "in"), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert f"{checkpoint.TRUSTED}={folder}" in "".join(done.stderr.split("\n"))


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("model.unet_cbam.width", 10**9, "1024"),
        ("model.unet_cbam.depth", 10**5, "6"),
        ("model.unet_cbam.image_size", 2**20, "8192"),
        ("model.unet_cbam.image_size", -64, "0"),
        ("train.adapter.rank", 10**6, "1024"),
        ("train.adapter.alpha", ".nan", "number"),
        ("evaluate.batch_size", 10**9, "4096"),
        ("seed", 2**200, ""),
    ],
)
def test_absurd_values_in_a_sweep_file_name_the_key_and_the_bound(
    key: str, value: object, bound: str, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: x\ndata: {sources: [{format: synthetic, scene: roofs}]}\nmodel: {family: unet_cbam}\n"
    )
    done = CliRunner().invoke(app, ["check", str(tmp_path / "s.yaml"), f"{key}={value}"])
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2, said
    assert key in said
    assert bound in said


def test_a_description_of_predict_keeps_no_files_that_are_not_the_model_s(tmp_path: Path) -> None:
    model = shipped.model_folder(tmp_path / "model", "unet_cbam")
    (model / "huge.bin").symlink_to("/dev/zero")
    (model / "README.md").write_text("a card")
    assert packed(model, trusted=False).files.keys() == {checkpoint.DESCRIPTION, checkpoint.WEIGHTS}
    assert json.loads(packed(model, trusted=False).files[checkpoint.DESCRIPTION])["classes"] == list(shipped.CLASSES)
