"""The teacher: the masks of segment-anything's own predictor, views that come back, and memory that runs out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from segdist.core import masks, registry
from segdist.core.errors import BackendError, SpecError, WeightsError
from segdist.core.plugins import ImageHWC, Question, declaration
from segdist.core.records import Instance, Prompt, Sample
from segdist.core.spec import LabelSpec, ModelSpec, RunSpec
from segdist.engine import checkpoint
from segdist.formats.synthetic.scenes import draw
from segdist.models.sam import SHIPPED_FILE, Options, architecture, weights
from segdist.pipeline.teacher import Teacher, check_teacher, compile_encoder, shared_model
from tests.stand_in import StandIn

SIZE = 96


def spec(**fields: Any) -> LabelSpec:
    return LabelSpec.model_validate({"teacher": {"family": "sam"}, **fields})


def question(scene: str = "roofs", seed: int = 3, size: int = SIZE) -> Question:
    image, truth = draw(scene, seed, size)
    boxes = [masks.encode(m).box_xyxy for _, m in truth]
    sample = Sample(
        scene, "", (size, size), tuple(Instance(label, None, b) for (label, _), b in zip(truth, boxes, strict=True))
    )
    return Question(sample, range(len(boxes)), image)


@pytest.mark.parametrize("strategy", ["box", "jittered_box", "box_skeleton", "box_points"])
def test_masks_are_those_of_a_plain_loop_over_sam_predictor(strategy: str) -> None:
    asked = question()
    teacher = Teacher(spec(prompt={"strategy": strategy}), ("a",))
    (found,) = teacher.candidates([asked])
    prompts = teacher._strategies[0].prompts(asked)
    expected = _plain_loop(asked.image_HWC, prompts)
    for n in range(len(asked.indices)):
        assert [o.instance.mask for o in found[n]] == [e[n] for e in expected]
        assert all(o.strategy == strategy for o in found[n])


def _plain_loop(image: ImageHWC, prompts: Sequence[Prompt]) -> list[list[Any]]:
    sam = architecture.tiny(128).eval()
    weights.load(sam, SHIPPED_FILE, Options())
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    answers = []
    for prompt in prompts:
        of_prompt = []
        for n, box in enumerate(prompt.boxes_xyxy):
            points = prompt.points_xy[n] if prompt.points_xy else ()
            with torch.inference_mode():
                found, _, _ = predictor.predict(
                    np.array(points) if points else None,
                    np.array(prompt.point_is_object[n], int) if points else None,
                    np.array(box),
                    multimask_output=False,
                )
            of_prompt.append(masks.encode(found[0]))
        answers.append(of_prompt)
    return answers


class Colour(StandIn):
    """A network that answers every box with the bright pixels in it, counts its calls, and may run out of memory."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most, self.calls = most, 0

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        self.calls += 1
        if sum(len(p.boxes_xyxy) for p in prompts) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return [
            tuple(self._one(i, b, n) for b, n in zip(p.boxes_xyxy, p.labels, strict=True))
            for i, p in zip(images, prompts, strict=True)
        ]

    def _one(self, image: ImageHWC, box: Any, label: str) -> Instance:
        inside = masks.decode(masks.from_box(box, size_hw=image.shape[:2]))
        return Instance(label, masks.encode(inside & (image[..., 0] > 100)), box, score=0.5)


def colours(most: int = 1000, **fields: Any) -> tuple[Teacher, Colour]:
    teacher, network = Teacher(spec(**fields), ("a",)), Colour(most)
    teacher._network = network
    return teacher, network


def lopsided(boxes: int = 5) -> Question:
    """An image that looks different from every side, with boxes in a row."""
    image = np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8)
    instances = tuple(Instance("a", None, (float(3 * n), 4.0, float(3 * n + 9), 30.0)) for n in range(boxes))
    return Question(Sample("i", "", (40, 70), instances), range(boxes), image)


def test_every_view_comes_back_to_the_same_pixels() -> None:
    views = ["as_is", "mirrored", "upside_down", "turned", "transposed"]
    teacher, _ = colours(consensus={"views": views})
    (found,) = teacher.candidates([lopsided()])
    for candidates in found:
        assert len(candidates) == 5
        assert len({o.instance.mask for o in candidates}) == 1
        assert len({o.instance.box_xyxy for o in candidates}) == 1


def test_all_strategies_with_boxes_are_asked_in_one_call_an_image() -> None:
    teacher, network = colours(consensus={"also": [{"strategy": "jittered_box"}, {"strategy": "box_points"}]})
    (found,) = teacher.candidates([lopsided()])
    assert network.calls == 1
    assert [o.strategy for o in found[0]] == ["box"] + ["jittered_box"] * 5 + ["box_points"]


def test_out_of_memory_halves_the_work_until_it_fits_and_changes_no_answer() -> None:
    plenty, _ = colours()
    scarce, _ = colours(most=2)
    questions = [lopsided(7), lopsided(3)]
    assert scarce.candidates(questions) == plenty.candidates(questions)
    before = scarce.halved
    assert before > 2
    assert scarce.candidates(questions) == plenty.candidates(questions)
    assert scarce.halved == before, "what did not fit is not tried again"
    hopeless, _ = colours(most=0)
    with pytest.raises(BackendError, match="must hold one prompt about one image"):
        hopeless.candidates(questions)


def test_an_error_that_is_not_about_memory_is_not_swallowed() -> None:
    teacher, network = colours()
    network.predict = lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes differ"):
        teacher.candidates([lopsided()])


def test_thousands_of_boxes_in_one_image_are_answered_in_order() -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 60, (1000, 2))
    instances = tuple(Instance("a", None, (x, y, x + 8, y + 8)) for x, y in corners.tolist())
    asked = Question(Sample("i", "", (70, 70), instances), range(1000), draw("roofs", 1, 70)[0])
    teacher = Teacher(LabelSpec.model_validate({"teacher": {"family": "sam"}}), ("a",))
    (found,) = teacher.candidates([asked])
    assert [o.instance.box_xyxy for (o,) in found] == [i.box_xyxy for i in instances]


def test_a_strategy_needs_a_teacher_that_understands_it() -> None:
    with pytest.raises(SpecError, match=r"needs a teacher that takes text prompts, but `sam` .* takes box, point"):
        check_teacher(spec(prompt={"strategy": "text"}), frozenset({"box", "point"}), "sam")


def _trained(folder: Path, model: dict[str, Any], classes: tuple[str, ...]) -> None:
    run = RunSpec.model_validate({"model": model})
    checkpoint.save(checkpoint.build(run.model, classes), folder, run, classes)


def test_a_model_that_segdist_trained_labels_as_its_family_does(tmp_path: Path) -> None:
    _trained(tmp_path / "model", {"family": "sam", "sam": {"size": "tiny"}}, ("a",))
    uri = shared_model(tmp_path / "model", str(tmp_path / "store"))
    trained = Teacher(spec(teacher={"trained": str(tmp_path / "model")}), ("a",), uri)
    asked = question()
    assert trained.candidates([asked]) == Teacher(spec(), ("a",)).candidates([asked])


def test_a_trained_model_that_is_shown_nothing_labels_by_the_whole_image(tmp_path: Path) -> None:
    asked = question()
    classes = tuple(sorted({i.label for i in asked.asked}))
    _trained(tmp_path / "model", {"family": "unet_cbam", "unet_cbam": {"image_size": 64, "width": 8}}, classes)
    uri = shared_model(tmp_path / "model", str(tmp_path / "store"))
    given = spec(teacher={"trained": str(tmp_path / "model")}, prompt={"strategy": "whole_image", "margin": 0.0})
    (found,) = Teacher(given, classes, uri).candidates([asked])
    for (candidate,), instance in zip(found, asked.asked, strict=True):
        x1, y1, x2, y2 = instance.box_xyxy
        assert candidate.instance.label == instance.label
        if candidate.instance.mask and candidate.instance.mask.area:
            left, top, right, bottom = candidate.instance.mask.box_xyxy
            assert x1 <= left < right <= x2
            assert y1 <= top < bottom <= y2


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"has no weights\.safetensors"):
        shared_model(tmp_path, str(tmp_path / "store"))


def test_sam3_answers_a_phrase_as_it_answers_a_class_of_that_name() -> None:
    debug = registry.load("models", "sam3").FAMILY.debug
    model = ModelSpec.model_validate({"family": "sam3", "sam3": debug})
    image = question().image_HWC
    network: Any = checkpoint.build(model, ("roof", "wall")).eval()
    with torch.inference_mode():
        of_names, roofs, walls = network.predict([image] * 3, [Prompt(), Prompt(text="roof"), Prompt(text="wall")])
    assert of_names
    for label, of_phrase in (("roof", roofs), ("wall", walls)):
        scores = [i.score for i in of_names if i.label == label]
        assert [i.score for i in of_phrase] == pytest.approx(scores, abs=1e-5)


def test_sam3_labels_boxes_by_words() -> None:
    debug = registry.load("models", "sam3").FAMILY.debug
    given = spec(teacher={"family": "sam3", "sam3": debug}, prompt={"strategy": "text"})
    asked = question()
    (found,) = Teacher(given, ("roof",)).candidates([asked])
    assert [len(candidates) for candidates in found] == [1] * len(asked.indices)
    assert all(o.instance.mask is None or o.instance.mask.size_hw == (SIZE, SIZE) for (o,) in found)


def test_sam3_labels_boxes_by_words_and_by_boxes_of_the_same_class_together() -> None:
    debug = registry.load("models", "sam3").FAMILY.debug
    both = {"also": [{"strategy": "exemplars"}, {"strategy": "exemplars", "most": 1}]}
    teacher = {"family": "sam3", "sam3": {**debug, "exemplars": True}}
    given = spec(teacher=teacher, prompt={"strategy": "text"}, consensus=both)
    asked = question()
    (found,) = Teacher(given, ("roof",)).candidates([asked])
    assert [[o.strategy for o in candidates] for candidates in found] == [["text", "exemplars", "exemplars"]] * len(
        found
    )


class Reader(StandIn):
    """A network that answers each phrase with all pixels brighter than its length."""

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        return [
            (Instance(p.text, masks.encode(i[..., 0] > len(p.text)), (0.0, 0.0, 70.0, 40.0), score=0.5),)
            for i, p in zip(images, prompts, strict=True)
        ]


def test_the_same_phrase_asked_by_two_strategies_is_answered_twice() -> None:
    teacher = Teacher(spec(prompt={"strategy": "text"}, consensus={"also": [{"strategy": "text"}]}), ("a",))
    teacher._network = Reader()
    image = np.full((40, 70, 3), 9, np.uint8)
    asked = Question(Sample("i", "", (40, 70), (Instance("a", None, (0.0, 0.0, 70.0, 40.0)),)), [0], image)
    ((candidates,),) = teacher.candidates([asked])
    assert [o.instance.mask and o.instance.mask.area for o in candidates] == [2800, 2800]


def test_precision_and_compilation_change_nothing_on_a_cpu() -> None:
    asked = question()
    plain, asked_for = Teacher(spec(), ("a",)), Teacher(spec(precision="bfloat16", compile=True), ("a",))
    assert asked_for.candidates([asked]) == plain.candidates([asked])
    assert asked_for._network is not None
    assert asked_for._network.get_submodule("image_encoder")._compiled_call_impl is None


def test_an_encoder_in_bfloat16_draws_nearly_the_same_masks_in_float32() -> None:
    asked = question()
    network: Any = checkpoint.build(ModelSpec.model_validate({"family": "sam"}), ("a",)).eval()
    (prompt,) = Teacher(spec(), ("a",))._strategies[0].prompts(asked)
    kinds: list[torch.dtype] = []
    network.mask_decoder.transformer.register_forward_pre_hook(lambda _, inputs: kinds.append(inputs[0].dtype))
    with torch.inference_mode():
        (exact,) = network.predict([asked.image_HWC], [prompt])
        with torch.autocast("cpu", torch.bfloat16):
            (half,) = network.predict([asked.image_HWC], [prompt])
    assert set(kinds) == {torch.float32}
    assert [i.score for i in half] != [i.score for i in exact], "the encoder was in bfloat16"
    for a, b in zip(exact, half, strict=True):
        assert a.mask is not None
        assert b.mask is not None
        assert masks.iou(a.mask, b.mask) > 0.9


@pytest.mark.parametrize("family", ["sam", "sam2", "sam3"])
def test_what_is_compiled_is_the_encoder(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))  # noqa: PLW0108 - a builtin would not bind
    declared = declaration(family)
    network: Any = checkpoint.build(ModelSpec.model_validate({"family": family, family: declared.debug}), ("a",))
    compile_encoder(network, family)
    assert [f"{name}." for name, module in network.named_modules() if module in compiled] == list(declared.encoder)


def test_large_images_are_encoded_alone_on_a_cpu_and_small_ones_together() -> None:
    for size, expected in ((128, 8), (1024, 1)):
        teacher = Teacher(spec(teacher={"family": "sam", "sam": {"image_size": size}}), ("a",))
        assert teacher._images_at_once() == expected


@pytest.mark.parametrize("strategy", ["box", "box_points", "grid"])
def test_sam2_labels_by_boxes_and_points(strategy: str) -> None:
    debug = {**registry.load("models", "sam2").FAMILY.debug, "prompt": "box"}
    given = spec(teacher={"family": "sam2", "sam2": debug}, prompt={"strategy": strategy})
    asked = question()
    (found,) = Teacher(given, ("roof",)).candidates([asked])
    assert [len(candidates) for candidates in found] == [1] * len(asked.indices)
