"""What is special about OneFormer; the contract suite trains it like every other family."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segdist.core.errors import SpecError, WeightsError
from segdist.core.masks import decode, encode
from segdist.core.plugins import Example
from segdist.core.records import Instance, Prompt
from segdist.models.oneformer import FAMILY, Options
from segdist.models.oneformer.network import OneFormer, build, contrastive
from segdist.models.oneformer.tasks import merged, panoptic, semantic
from segdist.models.oneformer.text import TextVocabulary, sentences
from segdist.testing.pictures import CLASSES, example

SIZE = 64
ONE, EMPTY = example(SIZE), example(SIZE, objects=False)


def network(seed: int = 0, **options: Any) -> OneFormer:
    torch.manual_seed(seed)
    return build(Options.model_validate({**FAMILY.debug, **options}), CLASSES)


def twice() -> Example:
    """The picture with its disc cut into two objects of one class, and a bar."""
    left, right = ONE.masks_NHW[0].copy(), ONE.masks_NHW[0].copy()
    left[:, SIZE // 3 :], right[:, : SIZE // 3] = False, False
    masks_NHW = np.stack([left, right, ONE.masks_NHW[1]])
    boxes = np.array([encode(m).box_xyxy for m in masks_NHW], np.float32)
    scores = np.array([1.0, 0.5, 1.0], np.float32)
    return replace(ONE, labels=np.array([0, 0, 1]), masks_NHW=masks_NHW, boxes_xyxy=boxes, scores=scores)


class TestText:
    def test_every_sentence_has_its_own_numbers_and_ends_with_the_largest(self) -> None:
        vocabulary = TextVocabulary.of_words(("window frame", "Wall"))
        said = ["a photo with a window frame", "a photo with a wall", "an instance photo", "the task is panoptic"]
        numbers = vocabulary.numbers(said, length=12)
        assert numbers.shape == (4, 12)
        assert len({tuple(row) for row in numbers.tolist()}) == 4
        assert (numbers.max(1).values == len(vocabulary) - 1).all()
        for row in numbers:
            assert (row[row.argmax() + 1 :] == 0).all()
        unknown = 1
        assert not (numbers == unknown).any()

    def test_a_long_sentence_is_cut_but_keeps_its_end(self) -> None:
        vocabulary = TextVocabulary.of_words(("one two three four five six",))
        numbers = vocabulary.numbers(["a photo with a one two three four five six"], length=6)
        assert numbers[0, -1] == len(vocabulary) - 1

    def test_there_is_one_sentence_an_object_in_the_order_of_the_classes_and_the_tasks_own_for_the_rest(self) -> None:
        said = sentences([1, 0, 1], CLASSES, "semantic", count=5)
        assert said == ["a photo with a disc", *["a photo with a bar"] * 2, *["a semantic photo"] * 2]
        assert sentences([0] * 9, CLASSES, "instance", count=2) == ["a photo with a disc"] * 2

    def test_sentences_agree_with_transformers_processor_where_that_works(self, tmp_path: Path) -> None:
        import json

        from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

        info = {str(i): {"name": name, "isthing": 1} for i, name in enumerate(CLASSES)}
        (tmp_path / "classes.json").write_text(json.dumps(info))
        processor = OneFormerImageProcessorPil(repo_path=str(tmp_path), class_info_file="classes.json", num_text=6)
        shown = twice()
        label = {"classes": shown.labels, "masks": list(shown.masks_NHW.astype(np.float32))}
        for task, theirs in (
            ("instance", processor.get_instance_annotations),
            ("panoptic", processor.get_panoptic_annotations),
            ("semantic", processor.get_semantic_annotations),
        ):
            classes, masks_NHW, texts = theirs(label, dict.fromkeys(CLASSES, 0))
            ours = merged(shown, (0, 1)) if task == "semantic" else shown
            assert sentences(ours.labels.tolist(), CLASSES, task, count=6) == list(texts)
            assert ours.labels.tolist() == classes.tolist()
            assert np.array_equal(ours.masks_NHW, masks_NHW > 0)

    def test_the_contrastive_loss_agrees_with_transformers(self) -> None:
        from transformers.models.oneformer.modeling_oneformer import OneFormerLoss

        generator = torch.Generator().manual_seed(0)
        queries, texts = (torch.randn(3, 5, 8, generator=generator) for _ in range(2))
        reference = OneFormerLoss(2, None, {}, 0.1, 10, 3.0, 0.75, contrastive_temperature=0.07)
        expected = reference.loss_contrastive(queries, texts)["loss_contrastive"]
        torch.testing.assert_close(contrastive(queries, texts, reference.logit_scale), expected, rtol=1e-5, atol=0)

    def test_encoding_each_sentence_once_gives_what_transformers_gives_encoding_all(self) -> None:
        net = network()
        batch = net.collate([ONE, EMPTY])
        everything = batch["texts_UL"][batch["which_BT"]]
        expected = net.model.model.text_mapper(everything)
        found = net.text_queries(batch["texts_UL"], batch["which_BT"])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert found.shape[1] == net.model.config.num_queries


class TestTasks:
    def test_one_region_a_class_unites_masks_boxes_and_scores(self) -> None:
        region = merged(twice(), [0])
        assert region.labels.tolist() == [1, 0]
        assert np.array_equal(region.masks_NHW[1], ONE.masks_NHW[0])
        assert region.boxes_xyxy[1].tolist() == ONE.boxes_xyxy[0].tolist()
        assert 0.5 < region.scores[1] < 1
        assert merged(EMPTY, [0, 1]).masks_NHW.shape == EMPTY.masks_NHW.shape

    def test_the_tasks_teach_different_objects_of_the_same_image(self) -> None:
        counts = {
            (task, stuff): len(network(task=task, stuff=stuff).collate([twice()])["labels"][0])
            for task, stuff in (("semantic", ()), ("instance", ()), ("panoptic", ()), ("panoptic", ("disc",)))
        }
        assert list(counts.values()) == [2, 3, 3, 2]

    def test_all_tasks_are_drawn_in_training_when_asked_for(self) -> None:
        net = network(train_tasks="all")
        drawn = {tuple(row) for row in net.collate([ONE] * 40)["tasks_BL"].tolist()}
        assert len(drawn) == 3
        assert len({tuple(row) for row in network().collate([ONE] * 40)["tasks_BL"].tolist()}) == 1

    def test_the_task_changes_what_the_same_weights_say(self) -> None:
        net = network().eval()
        pixels = net.collate([ONE])["pixels_B3SS"]
        with torch.inference_mode():
            a, b = (net.model.model(pixels, net._task_tokens([t])) for t in ("semantic", "instance"))
        assert not torch.equal(a.transformer_decoder_class_predictions, b.transformer_decoder_class_predictions)

    def test_encoder_and_decoder_one_by_one_say_what_transformers_network_says(self) -> None:
        net = network().eval()
        pixels = net.collate([ONE])["pixels_B3SS"]
        with torch.inference_mode():
            expected = net.model.model(pixels, net._task_tokens([net.options.task]))
            classes, masks = net.outputs(pixels)
        torch.testing.assert_close(classes, expected.transformer_decoder_class_predictions)
        torch.testing.assert_close(masks, expected.transformer_decoder_mask_predictions)

    def test_dropout_of_the_pixel_decoder_is_for_training_alone(self) -> None:
        net = network()
        for layer in net.model.model.pixel_level_module.decoder.encoder.layers:
            layer.dropout = 0.5
        pixels = net.collate([ONE])["pixels_B3SS"]
        with torch.inference_mode():
            for is_training in (True, False):
                first, second = (net.train(is_training).outputs(pixels)[0] for _ in range(2))
                assert torch.equal(first, second) is not is_training

    def test_semantic_regions_do_not_overlap_and_undecided_pixels_are_background(self) -> None:
        scores_QC = torch.tensor([[0.9, 0.05], [0.05, 0.9], [0.1, 0.1]])
        masks_Qhw = torch.full((3, 16, 16), -9.0)
        masks_Qhw[0, :, :8], masks_Qhw[1, :, 6:12], masks_Qhw[2] = 9.0, 5.0, 9.0
        found = semantic(scores_QC, masks_Qhw, classes=CLASSES, size_hw=(64, 64), image_size=64)
        disc, bar = (decode(i.mask) for i in found if i.mask)
        assert [i.label for i in found] == ["disc", "bar"]
        assert not (disc & bar).any()
        assert not (disc | bar)[:, 52:].any()

    def test_panoptic_gives_each_pixel_to_the_best_and_drops_what_is_mostly_hidden(self) -> None:
        def box(label: str, x1: int, x2: int, score: float) -> Instance:
            mask = np.zeros((8, 20), np.bool_)
            mask[:, x1:x2] = True
            rle = encode(mask)
            return Instance(label, rle, rle.box_xyxy, score)

        found = panoptic(
            [box("disc", 0, 10, 0.9), box("disc", 1, 9, 0.8), box("bar", 8, 16, 0.7), box("bar", 16, 20, 0.6)],
            stuff=("bar",),
        )
        assert [(i.label, i.score) for i in found] == [("disc", 0.9), ("bar", 0.7)]
        assert found[1].box_xyxy == (10, 0, 20, 8)

    @pytest.mark.parametrize("task", ["semantic", "panoptic"])
    def test_the_other_tasks_train_and_predict_too(self, task: str) -> None:
        net = network(task=task, stuff=("bar",)).train()
        terms = net(net.collate([twice(), EMPTY]))
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        assert not [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
        with torch.inference_mode():
            (found,) = net.eval().predict([ONE.image_HWC], [Prompt()])
        covered = np.zeros(ONE.image_HWC.shape[:2], np.int64)
        for instance in found:
            assert instance.mask is not None
            covered += decode(instance.mask)
        assert covered.max(initial=0) <= 1


def test_a_saved_folder_gives_its_weights_also_without_the_text_encoder_of_training(tmp_path: Path) -> None:
    saved = network(seed=1).model
    saved.config.is_training = False
    saved.model.text_mapper = None
    saved.save_pretrained(tmp_path)
    loaded = network(weights=str(tmp_path)).model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in saved.state_dict().items())
    assert any("text_mapper" in name for name in loaded)


def test_stuff_that_is_no_class_and_too_few_queries_are_refused() -> None:
    with pytest.raises(SpecError, match=r"no `dics`\. Did you mean `disc`"):
        network(stuff=("dics",))
    with pytest.raises(SpecError, match="at least 5"):
        network(num_queries=4)


def test_missing_weights_are_an_error_that_says_where_to_get_some() -> None:
    with pytest.raises(WeightsError, match=r"no folder \./nowhere\. Get some: segdist weights get shi-labs"):
        FAMILY.check(Options(weights="./nowhere"))
