"""What every model family promises, checked on its random CPU-sized variant.

By default each family in its debug mode and a few modes that differ most; all modes, and learning by the dearer
families, are slow.
"""

import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from segdist import registry
from segdist.masks import encode
from segdist.metrics import evaluate
from segdist.plugins import Example, Objective
from segdist.records import Instance, Prediction, Prompt, Sample
from segdist.spec import NoiseSpec
from tests.models.variants import CLASSES, VARIANTS, Variant, example, picture, prompt

USUAL = {str(v) for v in VARIANTS if v.mode == "debug"} | {"sam-box", "sam-everything", "unet_cbam-backbone"}
QUICK_LEARNERS = {"unet_cbam-debug", "sam-debug", "mask2former-debug"}
"""One that draws pixels, one that answers prompts, one that matches queries."""


def variants(by_default: set[str]) -> pytest.MarkDecorator:
    marked = [pytest.param(v, marks=() if str(v) in by_default else pytest.mark.slow) for v in VARIANTS]
    return pytest.mark.parametrize("variant", marked, ids=str)


every_variant = variants(USUAL)


@functools.cache
def untrained(variant: Variant) -> Any:
    """For tests that change nothing in it."""
    return variant.build().eval()


def asked(variant: Variant, truth: dict[str, np.ndarray]) -> Prompt:
    return prompt(truth) if variant.takes_boxes else Prompt()


def iou_on_the_image(variant: Variant, network: Any) -> float:
    """On the very image that `fit_one_image` shows."""
    size = variant.options.image_size
    image, truth = picture((size * 3 // 4, size))
    network.eval()
    with torch.inference_mode():
        (found,) = network.predict([image], [asked(variant, truth)])
    instances = tuple(Instance(label, encode(mask), encode(mask).box_xyxy) for label, mask in truth.items())
    sample = Sample("a", "", image.shape[:2], instances)
    return evaluate([sample], [Prediction("a", found)], classes=CLASSES, min_score=0.3, metrics=["iou"])["iou"]


def fit_one_image(variant: Variant, network: Any, *, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    network.train()
    values = []
    for _ in range(steps):
        loss = variant.weighted(network(network.collate([example(variant.options.image_size)] * 2)))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        values.append(float(loss.detach()))
    return values


def test_declarations_are_read_without_torch() -> None:
    code = (
        "import sys; from segdist import registry\n"
        "for name in registry.names('models'):\n"
        "    registry.load('models', name).FAMILY\n"
        "    assert 'torch' not in sys.modules, name"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@variants(QUICK_LEARNERS)
def test_it_learns_one_image(variant: Variant) -> None:
    network = variant.build()
    values = fit_one_image(variant, network, steps=60)
    assert np.mean(values[-5:]) < 0.5 * np.mean(values[:3])
    assert iou_on_the_image(variant, network) > 0.7


@every_variant
def test_images_without_objects_give_finite_losses_connected_to_the_graph(variant: Variant) -> None:
    network = variant.build().train()
    size = variant.options.image_size
    for has_objects in ((True, False), (False,)):
        network.zero_grad(set_to_none=True)
        terms = network(network.collate([example(size, objects=h) for h in has_objects]))
        assert terms.keys() == variant.declared.losses.keys()
        for value in terms.values():
            assert value.ndim == 0
            assert torch.isfinite(value)
            assert value.requires_grad
        torch.autograd.backward(variant.weighted(terms))
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(g).all() for g in gradients)


@every_variant
def test_it_predicts_at_each_images_own_size(variant: Variant) -> None:
    network = untrained(variant)
    sizes = [(50, 91), (140, 60), (33, 33)]
    drawn = [picture(s) for s in sizes]
    with torch.inference_mode():
        found = network.predict([image for image, _ in drawn], [asked(variant, truth) for _, truth in drawn])
    assert len(found) == 3
    for instances, size_hw, (_, truth) in zip(found, sizes, drawn, strict=True):
        for instance in instances:
            assert instance.label in CLASSES
            assert instance.mask is not None
            assert instance.mask.size_hw == size_hw
            assert 0 <= instance.score <= 1
        if variant.takes_boxes:
            assert [i.label for i in instances] == list(truth)
            assert [i.box_xyxy for i in instances] == list(prompt(truth).boxes_xyxy)


@every_variant
def test_a_batch_predicts_what_its_images_predict_alone(variant: Variant) -> None:
    network = untrained(variant)
    drawn = [picture((64, 64)), picture((40, 72))]
    with torch.inference_mode():
        together = network.predict([i for i, _ in drawn], [asked(variant, t) for _, t in drawn])
        alone = [network.predict([i], [asked(variant, t)])[0] for i, t in drawn]
    for a, b in zip(together, alone, strict=True):
        assert [i.label for i in a] == [i.label for i in b]
        for one, other in zip(a, b, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)


@every_variant
def test_saving_and_loading_changes_no_bit(variant: Variant, tmp_path: Path) -> None:
    network = variant.build()
    fit_one_image(variant, network, steps=1)
    file = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    again = variant.build(seed=1)
    again.load_state_dict(load_file(file))
    image, truth = picture()
    predictions = []
    for model in (network.eval(), again.eval()):
        with torch.inference_mode():
            predictions.append(model.predict([image], [asked(variant, truth)])[0])
    assert predictions[0] == predictions[1]


@every_variant
def test_what_is_drawn_where_pixels_are_ignored_does_not_change_the_loss(variant: Variant) -> None:
    """A false object inside the ignored region, against the same region left empty."""
    network = untrained(variant)  # no jitter: only the truth differs
    size = variant.options.image_size
    values = []
    for fill in (False, True):
        veiled = example(size)
        veiled.ignore_HW[: size // 16] = True
        veiled.masks_NHW[0, : size // 16] = fill
        torch.manual_seed(0)
        values.append(float(variant.weighted(network(network.collate([veiled]))).detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@every_variant
def test_uncertain_labels_count_as_the_options_say(variant: Variant) -> None:
    network, sure = untrained(variant), example(variant.options.image_size)
    unsure = replace(sure, scores=np.array([0.9, 0.4], np.float32))

    def losses(shown: Example, **noise: Any) -> Any:
        network.objective = Objective(noise=NoiseSpec.model_validate(noise))
        torch.manual_seed(0)
        try:
            terms = network(network.collate([shown]))
        finally:
            network.objective = Objective()
        return pytest.approx({name: float(value.detach()) for name, value in terms.items()}, rel=1e-6)

    plain = losses(sure).expected
    assert plain == losses(unsure), "scores count only where the options say so"
    for key, value in {"score_power": 1.0, "soft_targets": True, "label_smoothing": 0.2}.items():
        assert (plain != losses(unsure, **{key: value})) == (key in variant.declared.noise), key
    assert plain == losses(sure, score_power=1.0)
    assert plain == losses(sure, soft_targets=True)


def test_every_family_folder_is_found() -> None:
    assert {"sam", "unet_cbam"} <= set(registry.names("models"))
