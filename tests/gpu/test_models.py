"""A model that a card trained: it labels, predicts, is evaluated and leaves the card as it would a CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segdist.core import masks
from segdist.core.plugins import Question, declaration
from segdist.core.records import Instance, Prompt, Sample
from segdist.core.spec import EvaluateSpec, LabelSpec
from segdist.engine import checkpoint
from segdist.engine.evaluation import costs_of, evaluate_network
from segdist.engine.fit import MODEL, fit
from segdist.engine.precision import set_matrix_products
from segdist.engine.predict import find_in
from segdist.engine.workers import Workers
from segdist.exporting import export, onnx_graph
from segdist.formats.synthetic.scenes import draw
from segdist.pipeline.teacher import Teacher
from segdist.reading.examples import decode_image
from tests.engine.drawn import CLASSES, Reports
from tests.engine.shipped import model_folder
from tests.gpu.runs import ADAPTERS, TRAIN, VAL, apart, outputs, run_of

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def test_a_teacher_draws_the_masks_that_it_draws_on_a_cpu(device: torch.device) -> None:
    image, truth = draw("roofs", 3, 96)
    boxes = [masks.encode(mask).box_xyxy for _, mask in truth]
    instances = tuple(Instance(label, None, box) for (label, _), box in zip(truth, boxes, strict=True))
    asked = Question(Sample("roofs", "", (96, 96), instances), range(len(boxes)), image)

    def drawn(**how: Any) -> list[Any]:
        fields = {"teacher": {"family": "sam"}, "prompt": {"strategy": "box"}, **how}
        (found,) = Teacher(LabelSpec.model_validate(fields), ("a",)).candidates([asked])
        return [masks.decode(candidate.instance.mask) for (candidate,) in found if candidate.instance.mask]

    expected = drawn()
    assert len(expected) == len(boxes)
    gpus = float(device.type == "cuda")
    compiled = ("float32", True, 0.99)
    for precision, is_compiled, least in (("float32", False, 0.99), ("bfloat16", False, 0.95), compiled):
        found = drawn(gpus_per_actor=gpus, precision=precision, compile=is_compiled)
        for mine, cpus in zip(found, expected, strict=True):
            assert np.logical_and(mine, cpus).sum() > least * np.logical_or(mine, cpus).sum(), precision


@pytest.mark.parametrize("family", ["unet_cbam", "sam"])
def test_a_model_that_a_card_trained_predicts_and_is_exported_as_on_a_cpu(
    family: str, workers: Workers, tmp_path: Path
) -> None:
    run = run_of(family, epochs=6, checkpoint_every=6)
    fit(run, CLASSES, train=TRAIN, val=VAL, report=Reports(tmp_path), workers=workers)
    set_matrix_products("float32", workers.device)
    trained = tmp_path / "6" / MODEL
    there, here = (checkpoint.load(trained, device=place) for place in (workers.device, "cpu"))
    assert apart(outputs(there), outputs(here)) < 2e-3
    image = decode_image(VAL[0][1])
    shown: list[Any] = []
    for network in (there, here):
        found = find_in(network, image, Prompt(), run.evaluate, image_id="one")
        union = np.zeros(image.shape[:2], bool)
        for instance in found.instances:
            assert instance.mask
            union |= masks.decode(instance.mask)
        shown.append(union)
    assert (shown[0] == shown[1]).mean() > 0.99

    merged, description = export.load_merged(trained)
    export.write(merged, description, tmp_path / "out")
    alone = checkpoint.load(tmp_path / "out", device=workers.device)
    assert apart(outputs(alone), outputs(here)) < 2e-3
    if ADAPTERS[family] == "full":
        pytest.importorskip("onnxruntime")
        parity = onnx_graph.write(merged, declaration(family), tmp_path / "model.onnx")
        assert parity.smallest_iou >= 0.99


def test_an_evaluation_measures_the_card(device: torch.device, tmp_path: Path) -> None:
    network = checkpoint.load(model_folder(tmp_path, "unet_cbam"), device=device)
    found = evaluate_network(network, VAL, EvaluateSpec()).metrics
    for name in ("peak_memory_mb", "latency_p50_ms", "images_per_second", "gflops"):
        assert found[f"runtime/{name}"] > 0, name


def test_the_cost_of_a_model_in_training_moves_no_generator(device: torch.device, tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "unet_cbam")

    def states() -> list[torch.Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if device.type == "cuda" else [])]

    before = states()
    assert costs_of(folder, VAL, EvaluateSpec())["runtime/latency_p50_ms"] > 0
    assert all(torch.equal(one, other) for one, other in zip(states(), before, strict=True))
