"""YOLO: ultralytics' own loss where it applies, what it must not do to a machine, and weights that fit or say so."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segdist.core.errors import WeightsError
from segdist.models.yolo import FAMILY, Options, check
from segdist.models.yolo.criterion import IGNORED, YoloCriterion
from segdist.models.yolo.network import Yolo, build
from segdist.models.yolo.quietly import SegmentationModel, v8SegmentationLoss
from segdist.testing.pictures import CLASSES, crowded, example, picture

SIZE = 64


def network(seed: int = 0, **options: Any) -> Yolo:
    torch.manual_seed(seed)
    return build(Options.model_validate({**FAMILY.debug, **options}), CLASSES)


def said(model: Yolo, batch: Any) -> Any:
    with torch.no_grad():
        return model.train()._raw(batch["pixels_B3SS"])


@pytest.mark.parametrize("objects", [(True, False), (False, False)], ids=str)
def test_boxes_and_classes_cost_what_ultralytics_says(objects: tuple[bool, bool]) -> None:
    model = network()
    batch = model.collate([crowded(SIZE, count=9) if o else example(SIZE, objects=False) for o in objects])
    raw = said(model, batch)
    gains = SimpleNamespace(box=1.0, cls=1.0, dfl=1.0, overlap_mask=False)
    reference = v8SegmentationLoss(SimpleNamespace(parameters=model.parameters, args=gains, model=[model.head]))
    expected = reference.loss(raw, batch)[0] / 2
    taught = torch.ones(2, raw["scores"].shape[-1], dtype=torch.bool)
    found = YoloCriterion(model.head, None).terms(raw, batch, taught)
    assert float(found["box"]) == pytest.approx(float(expected[0]), rel=1e-5)
    assert float(found["class"]) == pytest.approx(float(expected[2]), rel=1e-5)
    assert float(found["distribution"]) == pytest.approx(float(expected[3]), rel=1e-5)


def test_a_mask_costs_the_mean_cross_entropy_over_the_taught_pixels_of_its_box() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((3, 8, 10))
    truth[:, 2, :] = IGNORED
    coefficients, prototypes = rng.normal(size=(3, 4)), rng.normal(size=(4, 8, 10))
    boxes = np.array([[0, 0, 10, 8], [2, 1, 5, 6], [1.5, 3, 4.5, 4]])
    expected = 0.0
    for t, c, (x1, y1, x2, y2) in zip(truth, coefficients, boxes, strict=True):
        logits = np.tensordot(c, prototypes, 1)
        costs = [
            np.logaddexp(0, logits[y, x]) - t[y, x] * logits[y, x]
            for y in range(8)
            for x in range(10)
            if x + 1 > x1 and x < x2 and y + 1 > y1 and y < y2 and t[y, x] != IGNORED
        ]
        expected += np.mean(costs)
    truth_Fhw, pred, proto, xyxy = [torch.from_numpy(v).float() for v in (truth, coefficients, prototypes, boxes)]
    found = YoloCriterion.single_mask_loss(truth_Fhw, pred, proto, xyxy, torch.ones(3))
    assert float(found) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_what_lies_on_a_crowd_is_not_taught_to_be_nothing() -> None:
    model = network().train()
    empty = example(SIZE, objects=False)
    unknown = replace(empty, ignore_HW=np.ones((48, 64), np.bool_))
    blind, seen = (float(model(model.collate([e]))["class"]) for e in (unknown, empty))
    assert blind < 0.5 * seen


def test_thin_objects_have_shares_of_coarse_pixels() -> None:
    thin = replace(example(SIZE), masks_NHW=np.zeros((1, 48, 64), np.bool_), labels=np.zeros(1, np.int64))
    thin = replace(thin, boxes_xyxy=np.array([[4, 4, 40, 5]], np.float32), scores=np.ones(1, np.float32))
    thin.masks_NHW[0, 4, 4:40] = True
    masks = network().collate([thin])["masks"]
    assert masks.shape == (1, 32, 32)
    assert float(masks[masks > 0].sum()) * 4 == 36
    assert bool((masks[:, 24:] == IGNORED).all())  # the padding


def test_importing_it_leaves_the_machine_and_other_libraries_as_they_were(tmp_path: Path) -> None:
    code = """
import os, socket
def refuse(*a, **k): raise AssertionError(("network", a))
socket.getaddrinfo = socket.create_connection = refuse
import cv2, numpy as np, torch
from PIL import Image
def state():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCHINDUCTOR")}  # torch sets its own
    return environment, torch.save, Image.open, np.get_printoptions(), cv2.getNumThreads()
before = state()
from segdist.models.yolo.network import build
from segdist.models.yolo import Options
assert before == state()
from ultralytics.utils import ONLINE, SETTINGS
assert not ONLINE and not SETTINGS["sync"]
build(Options(weights="random", size="debug", image_size=64), ("a",))
"""
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "VIRTUAL_ENV")}
    there = {**kept, "HOME": str(home), "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=there, check=True, cwd=tmp_path)
    assert [p.name for p in home.rglob("*")] == []
    assert not list(tmp_path.glob("segdist-*"))


@pytest.mark.parametrize(("size", "least"), [("11n", 2.8e6), ("v8n", 3.2e6)])
def test_the_published_shapes_are_built_at_random(size: str, least: float) -> None:
    parameters = sum(p.numel() for p in network(size=size).parameters())
    assert least < parameters < 1.1 * least


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as Ultralytics saves it: the network itself, in half precision."""
    torch.manual_seed(1)
    from segdist.models.yolo.architecture import _debug

    path = tmp_path_factory.mktemp("weights") / "best.pt"
    torch.save({"epoch": 3, "model": SegmentationModel(_debug(), nc=2, verbose=False).half(), "train_args": {}}, path)
    return path


def test_a_file_of_ultralytics_gives_its_network(file: Path) -> None:
    held = torch.load(file, weights_only=False)["model"].float().eval()
    ours = network(weights=str(file)).eval()
    pixels = torch.rand(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        assert torch.equal(ours._raw(pixels)[0][0], held(pixels)[0][0])


def test_other_classes_begin_untrained_and_the_rest_is_kept(file: Path) -> None:
    held = torch.load(file, weights_only=False)["model"].float().state_dict()
    ours = build(Options.model_validate({**FAMILY.debug, "weights": str(file)}), ("a", "b", "c"))
    assert torch.equal(ours.state_dict()["encoder.0.conv.weight"], held["model.0.conv.weight"])
    assert ours.head.nc == 3
    assert ours.head.cv3[0][-1].bias[0].item() == pytest.approx(np.log(0.01 / 0.99))


def test_weights_bring_their_size_and_another_one_is_refused(file: Path) -> None:
    assert build(Options(weights=str(file), image_size=SIZE), CLASSES).options.size == "debug"
    with pytest.raises(WeightsError, match=r"best\.pt is of `size: debug`, but `model\.yolo\.size` says v8n"):
        network(weights=str(file), size="v8n")


@pytest.fixture
def held(file: Path) -> Any:
    """What the file holds, to be changed."""
    return torch.load(file, weights_only=False)["model"]


PAYLOAD = "__import__('pathlib').Path('it-ran').touch() or __import__('torch').nn.ReLU()"


@pytest.mark.parametrize("key", ["activation", "nc", "depth_multiple", "scale", "backbone", "head", "yaml_file"])
def test_nothing_that_a_file_says_of_its_network_is_evaluated(
    key: str, held: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    held.yaml[key] = [[-1, 1, PAYLOAD, [PAYLOAD]]] if key in ("backbone", "head") else PAYLOAD
    torch.save({"model": held}, "evil.pt")
    network(weights="evil.pt")  # its tensors are those of a published shape: all that is taken from it
    assert not Path("it-ran").exists()


def test_descriptions_of_networks_that_lie_around_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("yolov8n-seg.yaml", "yolov8-seg.yaml"):
        Path(name).write_text(f"activation: {PAYLOAD!r}\nnc: 1\nbackbone: []\nhead: []\n")
    network(size="v8n")
    assert not Path("it-ran").exists()


def test_the_safe_mode_of_ultralytics_is_on() -> None:
    from ultralytics.nn.tasks import SAFE_LOAD, _SafeLoad

    assert SAFE_LOAD
    assert _SafeLoad.restricted()


def test_networks_of_another_activation_are_refused(held: Any, tmp_path: Path) -> None:
    for module in held.modules():
        if isinstance(getattr(module, "act", None), torch.nn.SiLU):
            module.act = torch.nn.ReLU()
    torch.save({"model": held}, tmp_path / "relu.pt")
    with pytest.raises(WeightsError, match="built like the published networks, with SiLU, but has ReLU"):
        network(weights=str(tmp_path / "relu.pt"))


def test_a_file_of_other_tensors_is_refused_before_they_take_memory(held: Any, tmp_path: Path) -> None:
    held.model[0].conv.weight = torch.nn.Parameter(torch.zeros(1).expand(16, 3, 10**5, 10**5), requires_grad=False)
    torch.save({"model": held}, tmp_path / "wide.pt")
    with pytest.raises(WeightsError, match=r"wide\.pt must hold plain dense tensors"):
        network(weights=str(tmp_path / "wide.pt"))


def test_modules_that_hold_themselves_end_in_an_error(held: Any, tmp_path: Path) -> None:
    held.model[1] = held.model
    torch.save({"model": held}, tmp_path / "loop.pt")
    with pytest.raises(WeightsError, match="at most 10,000 layers"):
        network(weights=str(tmp_path / "loop.pt"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil.pt must be a .pt file of Ultralytics"):
        network(weights=str(tmp_path / "evil.pt"))
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("damaged.pt", b"PK\x03\x04 not a network", r"is cut off.* 18 bytes\. Fetch it again"),
        ("plain.pt", {"model": {"a": torch.zeros(1)}}, "must hold a YOLOv8 or YOLO11 with masks"),
        ("list.pt", [1, 2], "must hold a YOLOv8 or YOLO11 with masks"),
        ("layer.pt", {"model": torch.nn.SiLU()}, "its last layer is torch.nn.modules.activation.SiLU"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: Any, rule: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=rule):
        network(weights=str(path))


def test_a_missing_file_and_another_kind_of_file_are_named_before_the_start(tmp_path: Path) -> None:
    for weights, rule in ((str(tmp_path / "no.pt"), "there is no"), ("yolo.safetensors", "must be a .pt file")):
        with pytest.raises(WeightsError, match=rule) as caught:
            check(Options(weights=weights))
        assert "yolo11n-seg.pt" in str(caught.value)


def test_at_most_a_hundred_instances_are_predicted() -> None:
    model = network().eval()
    for level in model.head.cv3:
        torch.nn.init.constant_(level[-1].bias, 2.0)
    with torch.inference_mode():
        (found,) = model.predict([picture((48, 64))[0]], [SimpleNamespace()])  # type: ignore[list-item]
    assert 0 < len(found) <= 100
