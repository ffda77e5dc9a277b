"""What a model family promises, checked on its random CPU-sized variant: losses, predictions, weights on disk."""

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from segdist.core.masks import Mask, encode
from segdist.core.plugins import Example, Objective, declaration
from segdist.core.records import Instance, Prediction, Prompt, Sample
from segdist.core.spec import NoiseSpec
from segdist.metrics import evaluate
from segdist.nets.segmenter import Segmenter
from segdist.reading.examples import letterbox
from segdist.testing.pictures import CLASSES, example, picture, prompt
from segdist.testing.variants import FamilyTests, Variant

MOST_STEPS = 240


class PredictingContract(FamilyTests):
    """What whoever predicts with a family may rely on, and whoever computes its losses."""

    def test_declarations_are_read_without_torch(self) -> None:
        code = (
            "import sys; from segdist.core import registry\n"
            "for name in sys.argv[1:]:\n"
            "    registry.load('models', name).FAMILY\n"
            "    assert 'torch' not in sys.modules, name"
        )
        assert self.families
        subprocess.run([sys.executable, "-c", code, *self.families], check=True)

    def test_what_it_declares_can_be_used(self) -> None:
        extras = metadata.metadata("segdist").get_all("Provides-Extra") or []
        for declared in map(declaration, self.families):
            declared.check(declared.options.model_validate(declared.debug))
            with pytest.raises(ValidationError, match="no_such_option"):
                declared.options.model_validate({**declared.debug, "no_such_option": 1})
            assert declared.extra in ("", *extras), "what segdist has no extra for, the plug-in itself requires"

    def test_what_it_learned_it_finds_in_the_picture_twice_as_large_lying_and_standing(self, learner: Variant) -> None:
        """Pictures of other sizes and shapes are scaled to the network and what is found back to them."""
        network, size = learner.build(), learner.options.image_size
        lying, standing = (size * 3 // 4, size), (size, size * 3 // 4)
        scores: list[float] = []
        for losses in fitted(learner, network, steps=MOST_STEPS):
            scores = [
                iou_of_the_picture(learner, network, (height * factor, width * factor))
                for height, width in (lying, standing)
                for factor in (1, 2)
            ]
            if min(scores) > 0.7 and np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3]):
                with torch.autocast("cpu", torch.bfloat16):  # as an epoch is scored where it trains in half precision
                    half = iou_of_the_picture(learner, network, lying)
                assert half == pytest.approx(scores[0], abs=0.05)
                return
        pytest.fail(f"after {MOST_STEPS} steps the losses are {losses[:3]} ... {losses[-3:]}, the IoUs {scores}")

    def test_predicting_shows_the_network_what_training_shows_it(self, variant: Variant) -> None:
        """Of a picture three times as large: the whole of it, scaled as examples are."""
        network, size = untrained(variant), variant.options.image_size
        for standing in (False, True):
            trained = example(size, standing=standing)
            image, truth = picture((3 * trained.image_HWC.shape[0], 3 * trained.image_HWC.shape[1]))
            batch = network.collate([replace(trained, image_HWC=letterbox(image, size))])
            with torch.no_grad():  # not `inference_mode`: what a network keeps must be of use to training
                taught = first_picture_shown(network, network, batch)
                shown = first_picture_shown(network, network.predict, [image], [asked(variant, truth)])
            torch.testing.assert_close(shown[:1], taught[:1])

    def test_images_without_objects_give_finite_losses_connected_to_the_graph(self, variant: Variant) -> None:
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

    def test_it_predicts_at_each_images_own_size(self, variant: Variant) -> None:
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

    def test_a_batch_predicts_what_its_images_predict_alone(self, variant: Variant) -> None:
        network = untrained(variant)
        drawn = [picture((64, 64)), picture((40, 72))]
        with torch.inference_mode():
            together = network.predict([i for i, _ in drawn], [asked(variant, t) for _, t in drawn])
            alone = [network.predict([i], [asked(variant, t)])[0] for i, t in drawn]
        for a, b in zip(together, alone, strict=True):
            assert [i.label for i in a] == [i.label for i in b]
            for one, other in zip(a, b, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-4)

    def test_saving_and_loading_changes_no_bit(self, variant: Variant, tmp_path: Path) -> None:
        network = variant.build()
        list(fitted(variant, network, steps=1))
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

    def test_what_is_drawn_where_pixels_are_ignored_does_not_change_the_loss(self, variant: Variant) -> None:
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

    def test_uncertain_labels_count_as_the_options_say(self, variant: Variant) -> None:
        network, sure = untrained(variant), example(variant.options.image_size)
        unsure = replace(sure, scores=np.array([0.9, 0.4], np.float32))

        def losses(shown: Example, **noise: object) -> dict[str, float]:
            network.objective = Objective(noise=NoiseSpec.model_validate(noise))
            torch.manual_seed(0)
            try:
                terms = network(network.collate([shown]))
            finally:
                network.objective = Objective()
            return {name: float(value.detach()) for name, value in terms.items()}

        plain = losses(sure)
        assert losses(unsure) == pytest.approx(plain, rel=1e-6), "scores count only where the options say so"
        for key, value in {"score_power": 1.0, "soft_targets": True, "label_smoothing": 0.2}.items():
            differs = losses(unsure, **{key: value}) != pytest.approx(plain, rel=1e-6)
            assert differs == (key in variant.declared.noise), key
        assert losses(sure, score_power=1.0) == pytest.approx(plain, rel=1e-6)
        assert losses(sure, soft_targets=True) == pytest.approx(plain, rel=1e-6)


@functools.cache
def untrained(variant: Variant) -> Segmenter:
    """For tests that change nothing in it."""
    return variant.build().eval()


def asked(variant: Variant, truth: Mapping[str, Mask]) -> Prompt:
    """What a family that takes boxes is shown: the true ones."""
    return prompt(truth) if variant.takes_boxes else Prompt()


def iou_of_the_picture(variant: Variant, network: Segmenter, size_hw: tuple[int, int]) -> float:
    """Of the picture drawn at another size, predicted with what is its truth there."""
    image, truth = picture(size_hw)
    network.eval()
    with torch.inference_mode():
        (found,) = network.predict([image], [asked(variant, truth)])
    network.train()
    instances = tuple(Instance(label, encode(mask), encode(mask).box_xyxy) for label, mask in truth.items())
    sample = Sample("a", "", image.shape[:2], instances)
    return evaluate([sample], [Prediction("a", found)], classes=CLASSES, min_score=0.3, metrics=["iou"])["iou"]


def fitted(variant: Variant, network: Segmenter, *, steps: int) -> Iterator[list[float]]:
    """The losses so far, after every twentieth step on the picture lying and standing, and after the last."""
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    network.train()
    shown = [example(variant.options.image_size), example(variant.options.image_size, standing=True)]
    values: list[float] = []
    for step in range(1, steps + 1):
        loss = variant.weighted(network(network.collate(shown)))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        values.append(float(loss.detach()))
        if step % 20 == 0 or step == steps:
            yield values


def first_picture_shown(network: Segmenter, call: Callable[..., object], *given: object) -> torch.Tensor:
    """The first batch of three-channel pictures that one of its layers is given."""
    seen: list[torch.Tensor] = []

    def look(_: nn.Module, arguments: tuple[object, ...]) -> None:
        if not seen and arguments and isinstance(arguments[0], torch.Tensor) and arguments[0].shape[1:2] == (3,):
            seen.append(arguments[0].detach().clone())

    hooks = [layer.register_forward_pre_hook(look) for layer in network.modules()]
    call(*given)
    for hook in hooks:
        hook.remove()
    return seen[0]
