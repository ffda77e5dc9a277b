"""SAM 3: its robustness by name, losses and matching against formulas, transformers' own outputs, and its words."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import permutations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import generalized_box_iou
from transformers import Sam3Model

from segdist.core import masks
from segdist.core.errors import SpecError, WeightsError
from segdist.core.plugins import Example
from segdist.core.records import Prompt
from segdist.formats.coco import Format
from segdist.formats.coco import Options as CocoOptions
from segdist.models.sam3 import FAMILY, Options, check, tokens
from segdist.models.sam3.criterion import MISSING, Predicted, Sam3Criterion, Sam3Layer
from segdist.models.sam3.network import Sam3, build
from segdist.nets.matching import FALLBACKS, Matches
from segdist.nets.points import ValidPixels
from segdist.nets.set_criterion import Targets
from segdist.reading.examples import letterbox, make_example
from segdist.testing.pictures import CLASSES, example, picture
from tests.models.sam3_worker import total, work

SIZE = 64
OF_OBJECTS = ("class", "box", "giou", "mask", "dice", "semantic_dice")
"""Terms that have nothing to teach where there are no objects."""


def network(seed: int = 0, classes: tuple[str, ...] = CLASSES, **options: Any) -> Sam3:
    torch.manual_seed(seed)
    return build(Options.model_validate({**FAMILY.debug, **options}), classes)


def guess(questions: int = 3, *, queries: int = 5, layers: int = 2, seed: int = 0) -> Predicted:
    """What a network might say."""
    draw = torch.Generator().manual_seed(seed)

    def layer() -> Sam3Layer:
        centres = torch.rand(questions, queries, 2, generator=draw) * 0.5 + 0.25
        sides = torch.rand(questions, queries, 2, generator=draw) * 0.4 + 0.05
        return Sam3Layer(
            torch.randn(questions, queries, 1, generator=draw).requires_grad_(),
            boxes_BQ4=torch.cat([centres, sides], -1).requires_grad_(),
            presence_P=torch.randn(questions, generator=draw).requires_grad_(),
        )

    return Predicted(
        [layer() for _ in range(layers)],
        torch.randn(questions, queries, 16, 16, generator=draw).mul(3).requires_grad_(),
        torch.randn(questions, 16, 16, generator=draw).mul(3).requires_grad_(),
    )


def squares(*of_question: list[tuple[int, int, int, int]]) -> Targets:
    """Rectangles (x1, y1, x2, y2) in pixels; each question asks an image of its own."""
    boxes, shapes = [], []
    for rectangles in of_question:
        drawn = torch.zeros(len(rectangles), SIZE, SIZE, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(drawn, rectangles, strict=True):
            mask[y1:y2, x1:x2] = True
        corners = torch.tensor(rectangles).reshape(-1, 4) / SIZE
        centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        boxes.append(torch.cat([centres, sides], 1))
        shapes.append(drawn)
    count = len(of_question)
    valid = torch.ones(count, SIZE, SIZE, dtype=torch.bool)
    labels = [torch.zeros(len(b), dtype=torch.int64) for b in boxes]
    return Targets(labels, shapes, valid, torch.zeros_like(valid), boxes_cxcywh=boxes, image_B=torch.arange(count))


TWO_ONE_NONE = squares([(4, 4, 30, 40), (32, 8, 60, 60)], [(10, 20, 50, 30)], [])


class TestRobustness:
    def test_empty_targets_give_a_graph_connected_zero_and_no_crash(self) -> None:
        model = network().train()
        terms = model(model.collate([example(SIZE, objects=False)] * 2))
        for name in OF_OBJECTS:
            assert float(terms[name].detach()) == 0
            assert terms[name].requires_grad
        assert float(terms["presence"].detach()) > 0  # absence is taught
        torch.autograd.backward(total({name: terms[name] for name in OF_OBJECTS}))
        touched = [p.grad for n, p in model.named_parameters() if n.startswith("model.detr_decoder.box_head.")]
        assert all(g is not None and not g.any() for g in touched)

    def test_rle_dictionaries_are_decoded_before_any_resize(self, tmp_path: Path) -> None:
        """Both kinds of COCO run lengths, from a file, to the masks that the loss sees."""
        image, truth = picture((150, 200))
        Image.fromarray(image).save(tmp_path / "a.png")
        annotations = []
        for number, (name, mask) in enumerate(truth.items()):
            rle = masks.encode(mask)
            flat = mask.T.flatten()
            edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
            runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
            counts = rle.counts.decode() if name == "disc" else runs
            box = rle.box_xyxy
            annotations.append(
                {
                    "id": number,
                    "image_id": 1,
                    "category_id": number,
                    "segmentation": {"size": [150, 200], "counts": counts},
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "iscrowd": 0,
                    "area": rle.area,
                }
            )
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 150, "width": 200}],
            "annotations": annotations,
            "categories": [{"id": n, "name": name} for n, name in enumerate(truth)],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        source = Format(CocoOptions(path=str(tmp_path / "a.json")))
        (sample,) = source.read(lambda finding: pytest.fail(str(finding)))
        bytes_ = source.image_bytes(sample)
        made = make_example(sample, bytes_, classes=CLASSES, image_size=SIZE, rng=np.random.default_rng(0))
        model = network()
        batch = model.collate([made])
        for class_index, mask in zip(batch["class_P"].tolist(), batch["masks"], strict=True):
            expected = masks.resize(truth[CLASSES[class_index]], (48, SIZE))
            assert np.array_equal(mask[0, :48].numpy(), expected)
            assert not mask[0, 48:].any()
        assert torch.isfinite(total(model(batch)).detach())

    def test_missing_matcher_indices_fall_back_instead_of_raising(self) -> None:
        criterion, predicted = Sam3Criterion(num_points=256), guess()
        nowhere = torch.zeros(0, dtype=torch.int64)
        beyond = torch.tensor([0, 0, 99])
        unusable: list[dict[int, Matches]] = [
            {},  # no layer has any
            {0: Matches(nowhere, nowhere, nowhere)},  # objects are left out
            {1: Matches(beyond, beyond, beyond)},  # of another batch
        ]
        torch.manual_seed(0)
        expected = {name: float(v.detach()) for name, v in criterion.terms(predicted, TWO_ONE_NONE).items()}
        assert criterion.take_counts()[MISSING] == 0
        for known in unusable:
            torch.manual_seed(0)
            terms = criterion.terms(predicted, TWO_ONE_NONE, known)
            assert {name: float(v.detach()) for name, v in terms.items()} == expected
            assert criterion.take_counts()[MISSING] == 2

    def test_a_head_that_gets_no_gradient_in_a_step_does_not_break_ddp(self, tmp_path: Path) -> None:
        """Two workers: objects on one alone, on none, and loss weights that leave all heads but one untaught."""
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            other = process.submit(work, 1, tmp_path)
            first, second = work(0, tmp_path), other.result()
        assert first.names == second.names
        assert first.steps == second.steps == 5
        assert not [n for n, a, b in zip(first.names, first.values, second.values, strict=True) if not (a == b).all()]
        assert not first.without_gradient

    def test_costs_that_are_not_finite_are_counted_and_do_not_end_the_training(self) -> None:
        criterion, predicted = Sam3Criterion(num_points=256), guess()
        with torch.no_grad():
            predicted.layers[0].classes_BQC[0, 1] = torch.nan
        criterion.terms(predicted, TWO_ONE_NONE)
        assert criterion.take_counts()[FALLBACKS] == 1


def _float64(value: torch.Tensor) -> np.ndarray:
    return value.detach().numpy().astype(np.float64)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _focal(x: np.ndarray, y: np.ndarray, alpha: float, gamma: float) -> np.ndarray:
    """Lin et al. 2017, equation 5."""
    p = np.where(y == 1, _sigmoid(x), 1 - _sigmoid(x))
    return -np.where(y == 1, alpha, 1 - alpha) * (1 - p) ** gamma * np.log(p)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def _giou(a: np.ndarray, b: np.ndarray) -> float:
    """Rezatofighi et al. 2019, algorithm 1."""
    a, b = _corners(a), _corners(b)
    common = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return float(common / union - (hull - union) / hull)


def _cost(layer: Sam3Layer, question: int, boxes: np.ndarray) -> np.ndarray:
    x, own = _float64(layer.classes_BQC[..., 0][question]), _float64(layer.boxes_BQ4[question])
    yes, no = _focal(x, np.ones_like(x), 0.25, 2), _focal(x, np.zeros_like(x), 0.25, 2)
    return np.array(
        [
            [2 * (yes[q] - no[q]) + 5 * np.abs(own[q] - box).sum() - 2 * _giou(own[q], box) for box in boxes]
            for q in range(len(own))
        ]
    )


class TestCriterion:
    def test_costs_agree_with_the_formulas_in_float64(self) -> None:
        layer, pixels = guess().layers[0], ValidPixels(TWO_ONE_NONE.valid_BHW)
        for question, boxes in enumerate(TWO_ONE_NONE.boxes_cxcywh[:2]):
            expected = _cost(layer, question, _float64(boxes))
            found = Sam3Criterion(num_points=64)._costs(layer, TWO_ONE_NONE, pixels, question)
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)

    def test_terms_of_queries_agree_with_the_formulas_in_float64(self) -> None:
        """Matched by trying every assignment; the focal, L1 and GIoU terms computed from the papers."""
        predicted, expected = guess(), dict.fromkeys(("class", "presence", "box", "giou"), 0.0)
        for layer in predicted.layers:
            x, boxes = _float64(layer.classes_BQC[..., 0]), _float64(layer.boxes_BQ4)
            truth, present = np.zeros_like(x), np.array([1.0, 1.0, 0.0])
            for question, objects in enumerate(map(_float64, TWO_ONE_NONE.boxes_cxcywh)):
                cost = _cost(layer, question, objects).reshape(len(x[0]), -1)
                best = min(
                    permutations(range(len(x[0])), len(objects)),
                    key=lambda qs: sum(cost[q, n] for n, q in enumerate(qs)),
                )
                for n, q in enumerate(best):
                    truth[question, q] = 1
                    expected["box"] += np.abs(boxes[question, q] - objects[n]).sum() / 3 / 2
                    expected["giou"] += (1 - _giou(boxes[question, q], objects[n])) / 3 / 2
            expected["class"] += (_focal(x, truth, 0.25, 2) * present[:, None]).sum() / 3 / 2
            expected["presence"] += _focal(_float64(layer.presence_P), present, 0.5, 2).mean() / 2
        terms = Sam3Criterion(num_points=64).terms(predicted, TWO_ONE_NONE)
        for name, value in expected.items():
            assert float(terms[name].detach()) == pytest.approx(value, rel=1e-5)

    def test_giou_agrees_with_torchvision(self) -> None:
        boxes = guess().layers[0].boxes_BQ4[0].detach().double()
        corners = torch.from_numpy(_corners(boxes.numpy()))
        ours = np.array([[_giou(a, b) for b in boxes.numpy()] for a in boxes.numpy()])
        np.testing.assert_allclose(ours, generalized_box_iou(corners, corners).numpy(), rtol=1e-9)

    def test_mask_terms_on_every_pixel_agree_with_the_formulas_in_float64(self) -> None:
        """A mask of one value everywhere has the same loss at any points but those near the frame, where zeros lie."""
        predicted = guess(1)
        flat = torch.linspace(-2, 2, 5)[None, :, None, None].expand(1, 5, 16, 16)
        full = squares([(0, 0, SIZE, SIZE)])
        inside = torch.zeros_like(full.valid_BHW)
        inside[:, SIZE // 16 : -SIZE // 16, SIZE // 16 : -SIZE // 16] = True
        full = replace(full, valid_BHW=inside)
        terms = Sam3Criterion(num_points=128).terms(replace(predicted, masks_PQhw=flat), full)
        cost = _cost(predicted.layers[-1], 0, _float64(full.boxes_cxcywh[0]))
        p = _sigmoid(np.linspace(-2, 2, 5)[int(cost[:, 0].argmin())])
        assert float(terms["mask"]) == pytest.approx(-np.log(p), rel=1e-5)
        assert float(terms["dice"]) == pytest.approx(1 - (2 * p * 128 + 1) / (p * 128 + 128 + 1), rel=1e-5)

    def test_semantic_terms_agree_with_the_formulas_in_float64(self) -> None:
        predicted = replace(
            guess(), semantic_Phw=torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
        )
        targets = replace(TWO_ONE_NONE, valid_BHW=torch.rand(3, SIZE, SIZE) < 0.8)
        terms = Sam3Criterion(num_points=64).terms(predicted, targets)
        x, valid = _float64(predicted.semantic_Phw), targets.valid_BHW.numpy()
        y = np.stack([m.any(0).numpy() for m in targets.masks]).astype(float)
        cross_entropy = -(y * np.log(_sigmoid(x)) + (1 - y) * np.log(1 - _sigmoid(x)))
        assert float(terms["semantic"]) == pytest.approx(cross_entropy[valid].mean(), rel=1e-5)
        p, y = _sigmoid(x) * valid, y * valid
        dice = 1 - (2 * (p * y).sum((1, 2)) + 1) / ((p**2).sum((1, 2)) + (y**2).sum((1, 2)) + 1)
        assert float(terms["semantic_dice"]) == pytest.approx(dice[:2].mean(), rel=1e-5)

    def test_queries_on_crowds_are_not_told_that_they_are_nothing(self) -> None:
        predicted = guess(1)
        targets = squares([(4, 4, 30, 40)])
        everywhere = replace(targets, crowd_BHW=torch.ones_like(targets.crowd_BHW))
        with_crowd, without = (Sam3Criterion(num_points=64).terms(predicted, t)["class"] for t in (everywhere, targets))
        assert 0 < float(with_crowd.detach()) < float(without.detach())

    def test_known_matches_that_fit_are_used(self) -> None:
        one = torch.tensor([0])
        chosen = {0: Matches(one, one + 3, one), 1: Matches(one, one + 3, one)}
        predicted, targets = guess(1), squares([(4, 4, 30, 40)])
        box = float(Sam3Criterion(num_points=64).terms(predicted, targets, chosen)["box"].detach())
        truth = _float64(targets.boxes_cxcywh[0][0])
        expected = np.mean([np.abs(_float64(layer.boxes_BQ4[0, 3]) - truth).sum() for layer in predicted.layers])
        assert box == pytest.approx(expected, rel=1e-5)


class TestNetwork:
    def test_the_last_layer_says_what_transformers_gives(self) -> None:
        model = network().eval()
        pixels = model.collate([example(SIZE)])["pixels_B3SS"]
        both = torch.tensor([0, 1])
        with torch.inference_mode():
            last = model._answers(model._seen(pixels), both * 0, both, (model.ids_KT, model.there_KT)).layers[-1]
            expected = model.model(
                pixel_values=pixels.expand(2, -1, -1, -1), input_ids=model.ids_KT, attention_mask=model.there_KT
            )
        torch.testing.assert_close(torch.from_numpy(_corners(last.boxes_BQ4.numpy())), expected.pred_boxes)
        torch.testing.assert_close(last.classes_BQC[..., 0], expected.pred_logits)
        torch.testing.assert_close(last.presence_P, expected.presence_logits[:, 0])

    def test_absent_classes_are_asked_for_too_and_have_no_objects(self) -> None:
        batch = network(classes=("disc", "bar", "cat")).collate([example(SIZE), example(SIZE, objects=False)])
        asked = list(zip(batch["image_B"].tolist(), batch["class_P"].tolist(), strict=True))
        assert sorted(asked) == [(n, k) for n in range(2) for k in range(3)]
        objects = {question: len(boxes) for question, boxes in zip(asked, batch["boxes_cxcywh"], strict=True)}
        assert {question for question, count in objects.items() if count} == {(0, 0), (0, 1)}

    def test_more_classes_than_may_be_asked_leave_out_absent_ones_first(self) -> None:
        model = network(classes=("cat", "disc_2", "x", "y"), names_per_image=2)
        shown: Example = replace(example(SIZE), labels=np.array([1, 3]))
        for seed in range(5):
            torch.manual_seed(seed)
            assert sorted(model.collate([shown])["class_P"].tolist()) == [1, 3]

    def test_a_second_image_without_objects_changes_nothing_for_the_first(self) -> None:
        model = network().eval()
        image, _ = picture()
        blank = np.zeros((40, 90, 3), np.uint8)
        with torch.inference_mode():
            (alone,), (together, _) = model.predict([image], [Prompt()]), model.predict([image, blank], [Prompt()] * 2)
        assert [i.label for i in alone] == [i.label for i in together]

    def test_an_image_size_of_broken_patches_is_refused(self) -> None:
        with pytest.raises(SpecError, match="multiple of 8, but got 60"):
            network(image_size=60)


class TestWords:
    def test_the_debug_tokenizer_tells_any_names_apart_and_pads_them(self) -> None:
        names = ["wall", "walls", "Ständer", "墙", "a b"]
        ids, there = tokens.encode(tokens.tokenizer("random"), names)
        assert ids.shape == there.shape == (5, tokens.LONGEST)
        assert len({tuple(row) for row in ids.tolist()}) == 5
        assert there.sum(1).tolist() == [len(name.encode()) for name in names]
        assert int(ids.max()) < tokens.vocabulary_size()

    def test_names_in_the_options_replace_labels_and_underscores_are_spaces(self) -> None:
        reader = tokens.tokenizer("random")
        ids = network(classes=("door_2", "fire_exit"), names={"door_2": "sliding door"}).ids_KT
        assert torch.equal(ids, tokens.encode(reader, ["sliding door", "fire exit"])[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network with its tokenizer, as a download would leave it."""
    path = tmp_path_factory.mktemp("weights") / "saved"
    saved = network(seed=1)
    whole = Sam3Model(saved.model.config)
    whole.load_state_dict(saved.model.state_dict(), strict=False)
    whole.save_pretrained(path)
    tokens.tokenizer("random").save_pretrained(path)
    return path


class TestWeights:
    def test_a_saved_folder_gives_its_weights_and_its_words(self, folder: Path) -> None:
        check(Options(weights=str(folder)))
        loaded, saved = network(weights=str(folder)), network(seed=1)
        state = loaded.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in saved.model.state_dict().items())
        assert torch.equal(loaded.ids_KT, saved.ids_KT)

    def test_weights_without_a_tokenizer_are_refused(self, folder: Path, tmp_path: Path) -> None:
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        with pytest.raises(WeightsError, match=r"tokenizer must lie beside"):
            network(weights=str(tmp_path))

    def test_a_folder_that_is_not_there_is_an_error_that_says_where_to_get_one(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"segdist weights get facebook/sam3"):
            check(Options(weights=str(tmp_path / "nowhere")))


def test_boxes_beside_a_phrase_are_shown_as_transformers_shows_them() -> None:
    net = network(exemplars=True).eval()
    (image, _), phrase = picture(), CLASSES[0]
    height, width = image.shape[:2]
    boxes = ((3.0, 5.0, 20.0, 30.0), (10.0, 2.0, 40.0, 25.0))
    shown = Prompt(boxes, (phrase,) * 2, text=phrase)
    with torch.inference_mode():
        bare, mixed, alone = (
            net.predict([image] * len(p), p) for p in ([Prompt(text=phrase)], [Prompt(text=phrase), shown], [shown])
        )
        scale = 1 / max(height, width)
        centred = [[(a + c) / 2 * scale, (b + d) / 2 * scale, (c - a) * scale, (d - b) * scale] for a, b, c, d in boxes]
        ids, there = tokens.encode(net._reader, [phrase])
        output = net.model(
            pixel_values=net._pixels([letterbox(image, SIZE)]),
            input_ids=ids,
            attention_mask=there,
            input_boxes=torch.tensor([centred]),
            input_boxes_labels=torch.ones(1, 2, dtype=torch.long),
        )
    expected = (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0]
    scores = sorted(expected[expected >= 0.05].tolist(), reverse=True)
    assert scores
    assert [i.score for i in alone[0]] == pytest.approx(scores, abs=2e-3), "scaled boxes are rounded to pixels' edges"
    assert mixed == [bare[0], alone[0]], "a question without examples is not told that another has some"
    assert [i.score for i in bare[0]] != [i.score for i in alone[0]]
