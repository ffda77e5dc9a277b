from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PaliGemmaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from segdist import adapters
from segdist.core.errors import DataError, SpecError, WeightsError
from segdist.core.masks import encode, iou
from segdist.core.plugins import Objective
from segdist.core.records import Instance, Prompt
from segdist.core.spec import AdapterSpec
from segdist.models.paligemma import FAMILY, Options, check
from segdist.models.paligemma.decoding import Written
from segdist.models.paligemma.grammar import Grammar, State
from segdist.models.paligemma.network import PaliGemma, build
from segdist.models.paligemma.tiles import joined, tiles_of
from segdist.models.paligemma.vocabulary import TokenVocabulary, small_tokenizer
from segdist.nets.paligemma.answers import Answer, TokenObject, parse
from segdist.sweepfile.loading import load
from segdist.testing.pictures import CLASSES, crowded, example, picture

TEXTS = ["segment disc", "segment bar", " disc", " bar"]


def options(**changes: Any) -> Options:
    return Options.model_validate({**FAMILY.debug, **changes})


def made(**changes: Any) -> PaliGemma:
    torch.manual_seed(0)
    return build(options(**changes), CLASSES)


@pytest.fixture(scope="module")
def vocabulary() -> TokenVocabulary:
    return TokenVocabulary(small_tokenizer(TEXTS), 4)


def answer_of(network: PaliGemma, batch: dict[str, Any], row: int) -> str:
    return network.vocabulary.text(batch["ids_RL"][row][batch["is_answer_RL"][row]].tolist())


def test_a_row_is_what_transformers_processor_makes_of_question_and_answer() -> None:
    network = made()
    batch = network.collate([example(64)])
    images = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    images.image_seq_length = network.vocabulary.num_image_tokens
    tokenizer = network.vocabulary.tokenizer
    processor = PaliGemmaProcessor(images, tokenizer)
    square = np.full((64, 64, 3), 127, np.uint8)
    square[:48] = example(64).image_HWC
    for row, label in enumerate(CLASSES):
        wanted = processor(
            images=Image.fromarray(square), text=f"<image>segment {label}", suffix=answer_of(network, batch, row)
        )
        length = int(batch["shown_RL"][row].sum())
        assert batch["ids_RL"][row][:length].tolist() == wanted["input_ids"][0]
        assert batch["is_answer_RL"][row][:length].long().tolist() == wanted["token_type_ids"][0]
        assert np.abs(batch["pixels_B3SS"][0].numpy() - wanted["pixel_values"][0])[:, :48].max() < 1e-5


def test_the_loss_is_transformers_own_on_the_answers_tokens() -> None:
    network = made().eval()
    batch = network.collate([example(64), example(64, objects=False)])
    labels_RL = torch.where(batch["is_answer_RL"], batch["ids_RL"], -100)
    with torch.inference_mode():
        output = network.model(
            input_ids=batch["ids_RL"],
            attention_mask=batch["shown_RL"],
            token_type_ids=(batch["is_answer_RL"] | (batch["shown_RL"] == 0)).long(),
            pixel_values=batch["pixels_B3SS"][batch["image_R"]],
            labels=labels_RL,
        )
        assert float(network(batch)["text"]) == pytest.approx(float(output.loss), rel=1e-5)


def test_no_token_of_an_answer_sees_a_later_one_and_the_question_sees_no_answer() -> None:
    network = made().eval()
    batch = network.collate([example(64)])
    place = int(batch["is_answer_RL"][0].nonzero()[5])
    other = batch["ids_RL"].clone()
    other[:, place] = network.vocabulary.loc0 + 7

    def hidden(ids_RL: torch.Tensor) -> torch.Tensor:
        return network.model.model(
            input_ids=ids_RL,
            attention_mask=batch["shown_RL"],
            token_type_ids=(batch["is_answer_RL"] | (batch["shown_RL"] == 0)).long(),
            pixel_values=batch["pixels_B3SS"][batch["image_R"]],
        ).last_hidden_state

    with torch.inference_mode():
        moved = (hidden(other) - hidden(batch["ids_RL"])).abs().amax(-1)
    assert moved[:, :place].max() == 0
    assert moved[:, place].min() > 0


def test_the_question_is_read_in_both_directions() -> None:
    network = made().eval()
    batch = network.collate([example(64)])
    first = network.vocabulary.num_image_tokens + 1  # the question's first word
    other = batch["ids_RL"].clone()
    other[:, first + 1] = network.vocabulary.padding
    with torch.inference_mode():
        outputs = [
            network.model.model(
                input_ids=ids,
                attention_mask=batch["shown_RL"],
                token_type_ids=(batch["is_answer_RL"] | (batch["shown_RL"] == 0)).long(),
                pixel_values=batch["pixels_B3SS"][batch["image_R"]],
            ).last_hidden_state
            for ids in (batch["ids_RL"], other)
        ]
    assert (outputs[0] - outputs[1])[:, 0].abs().max() > 0


def test_targets_name_every_object_of_the_class_in_order_and_negatives_are_empty() -> None:
    network = made(max_objects=50)
    batch = network.collate([example(64), example(64, objects=False), crowded(64, count=30)])
    texts = [answer_of(network, batch, row) for row in range(len(batch["ids_RL"]))]
    assert batch["image_R"].tolist() == [0, 0, 1, 2, 2]
    assert [len(parse(t, labels=CLASSES).objects) for t in texts] == [1, 1, 0, 15, 15]
    assert texts[2] == ""
    assert all(not parse(t).unread for t in texts)
    tops = [o.bins[0] for o in parse(texts[3]).objects]
    assert tops == sorted(tops)


def test_objects_beyond_the_most_are_left_out_and_counted() -> None:
    network = made(max_objects=4)
    batch = network.collate([crowded(64, count=30)])
    assert len(parse(answer_of(network, batch, 0)).objects) == 4
    assert network.take_counts()["surplus_objects"] == 22
    assert network.take_counts()["surplus_objects"] == 0


def test_synonyms_are_asked_in_training_and_the_answer_names_the_class() -> None:
    network = made(synonyms={"disc": ("circle", "coin")}).train()
    first = network.vocabulary.num_image_tokens + 1
    asked = set()
    for _ in range(20):
        batch = network.collate([example(64)])
        row = batch["ids_RL"][0]
        asked.add(network.vocabulary.text(row[first : int(batch["is_answer_RL"][0].nonzero()[0])].tolist()).strip())
        assert parse(answer_of(network, batch, 0)).objects[0].label == "disc"
    assert asked == {"segment disc", "segment circle", "segment coin"}


def test_class_weights_weigh_the_tokens_of_a_class() -> None:
    network = made().eval()
    both = network.collate([example(64)])
    alone = []
    for kept in (0, 1):
        one = example(64)
        one = replace(one, labels=one.labels[kept : kept + 1], masks_NHW=one.masks_NHW[kept : kept + 1])
        alone.append(one)
    only = [made(negatives=0).eval().collate([one]) for one in alone]
    with torch.inference_mode():
        each = [float(network(batch)["text"]) for batch in only]
        tokens = [int(batch["is_answer_RL"].sum()) for batch in only]
        network.objective = Objective(class_weights=(1.0, 3.0, 0.5))
        weighted = float(network(network.collate([example(64)]))["text"])
    assert both["weight_R"].tolist() == [1, 1]
    total = 3.0 * tokens[0] * each[0] + 0.5 * tokens[1] * each[1]
    assert weighted == pytest.approx(total / (3.0 * tokens[0] + 0.5 * tokens[1]), rel=1e-4)


def walk(vocabulary: TokenVocabulary, seed: int, *, max_objects: int = 3) -> str:
    """A random answer that the grammar lets through."""
    generator = torch.Generator().manual_seed(seed)
    grammar = Grammar([State(vocabulary, "disc", max_objects)], prompt_length=1)
    ids = torch.tensor([[vocabulary.padding]])
    for _ in range(200):
        scores = grammar(ids, torch.randn(1, len(vocabulary.tokenizer), generator=generator))
        assert torch.isfinite(scores).any()
        token = torch.multinomial(scores.softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, token], dim=1)
        if int(token) == vocabulary.end:
            return vocabulary.text(ids[0, 1:].tolist())
    pytest.fail("the grammar must come to an end")


def test_whatever_the_grammar_lets_through_is_an_answer(vocabulary: TokenVocabulary) -> None:
    answers = [parse(walk(vocabulary, seed), labels={"disc"}) for seed in range(60)]
    assert not [a for a in answers if a.unread]
    counts = {len(a.objects) for a in answers}
    assert max(counts) == 3
    assert all(o.codes is not None for a in answers for o in a.objects)
    for answer in answers:
        tops = [o.bins[0] for o in answer.objects]
        assert tops == sorted(tops)


def test_the_grammar_lets_every_target_through() -> None:
    network = made(max_objects=50)
    batch = network.collate([example(64), example(64, objects=False), crowded(64, count=30)])
    for row in range(len(batch["ids_RL"])):
        answer = batch["ids_RL"][row][batch["is_answer_RL"][row]].tolist()
        label = (parse(network.vocabulary.text(answer)).objects or [None])[0]
        state = State(network.vocabulary, label.label if label else "disc", 50)
        for token in answer:
            assert any(first <= token <= last for first, last in state.allowed())
            state.advance(token)
        assert state.is_over


def test_an_untrained_network_writes_answers_with_the_grammar_and_counts_failures_without() -> None:
    image, _ = picture((48, 64))
    for grammar in (True, False):
        network = made(grammar=grammar, max_objects=2).eval()
        with torch.inference_mode():
            network.model.lm_head.weight[: network.vocabulary.loc0] = 0  # or it would write blanks, or nothing
            (written,) = network.ask([image])
            assert len(network.predict([image], [Prompt()])[0]) <= 4
        unread, pieces = network.take_rates()["parse_failure_rate"]
        assert [w.label for w in written] == list(CLASSES)
        assert pieces > 0
        assert (unread == 0) == grammar
        assert all(0 < score <= 1 for w in written for score in w.scores)


def test_a_thin_object_over_several_tiles_is_taught_in_each_and_found_as_one() -> None:
    network = made(image_size=128, tiles=2)
    truth = np.zeros((96, 128), np.bool_)
    truth[40:44, 4:124] = True
    one = replace(
        example(128),
        labels=np.array([1]),
        masks_NHW=truth[None],
        boxes_xyxy=np.array([[4, 40, 124, 44]], np.float32),
        scores=np.ones(1, np.float32),
    )
    batch = network.collate([one])
    assert batch["pixels_B3SS"].shape == (4, 3, 64, 64)
    texts = [answer_of(network, batch, row) for row in range(len(batch["ids_RL"]))]
    asked = [(int(tile), bool(text)) for tile, text in zip(batch["image_R"], texts, strict=True)]
    assert [tile for tile, taught in asked if taught] == [0, 1]
    answers = [
        Written(tile, "bar", text, parse(text), (0.8,))
        for tile, text in zip(batch["image_R"].tolist(), texts, strict=True)
        if text
    ]
    (found,) = network._found(answers, (96, 128))
    assert found.mask is not None
    assert iou(found.mask, encode(truth)) > 0.8
    assert found.score == pytest.approx(0.8)


@pytest.mark.parametrize(("edges", "corner"), [("round", (45, 46)), ("truncate", (44, 45))])
def test_the_corner_of_a_box_is_rounded_or_truncated_as_asked(edges: str, corner: tuple[int, int]) -> None:
    network = made(edges=edges)
    size_hw = (64, 64)
    one = TokenObject("disc", (730, 715, 1000, 1001), None)  # y1 = 45.67, x1 = 44.73
    written = Written(0, "disc", "", Answer((one,), ()), (0.9,))
    (found,) = network._found([written], size_hw)
    assert tuple(int(v) for v in found.box_xyxy[:2]) == corner


def test_tiles_of_an_image_cover_it_once_and_those_in_the_padding_are_left_out() -> None:
    for size_hw in ((300, 400), (90, 400), (64, 64)):
        covered = np.zeros(size_hw, np.int64)
        for tile in tiles_of(size_hw, side=64, tiles=3):
            covered[tile.top : tile.top + tile.size_hw[0], tile.left : tile.left + tile.size_hw[1]] += 1
        assert (covered == 1).all()
    assert len(tiles_of((90, 400), side=64, tiles=3)) == 3


def test_pieces_of_one_tile_or_of_two_labels_stay_apart() -> None:
    left, right = np.zeros((20, 40), np.bool_), np.zeros((20, 40), np.bool_)
    left[5:15, 10:20], right[5:15, 20:30] = True, True
    a, b = (Instance("bar", encode(m), encode(m).box_xyxy, score) for m, score in ((left, 0.5), (right, 1.0)))
    (one,) = joined([(0, a), (1, b)], size_hw=(20, 40))
    assert one.mask == encode(left | right)
    assert one.score == pytest.approx(0.75)
    assert len(joined([(0, a), (0, b)], size_hw=(20, 40))) == 2
    assert len(joined([(0, a), (1, replace(b, label="disc"))], size_hw=(20, 40))) == 2


def test_what_was_asked_and_written_can_be_read() -> None:
    network = made(max_objects=1).eval()
    image, _ = picture((48, 64))
    with torch.inference_mode():
        network.predict([image, image], [Prompt()] * 2)
    texts = network.texts()
    assert len(texts) == 2
    for line, label in zip(texts[0].splitlines(), CLASSES, strict=True):
        assert line.startswith(f"segment {label} -> ")


def test_a_sweep_that_names_the_family_begins_with_its_recipe(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    text = "name: p\ndata: {sources: [{format: synthetic, count: 2}]}\nmodel: {family: paligemma, paligemma: "
    file.write_text(text + "{weights: random, image_size: 64}}\n")
    spec = load(file)
    assert (spec.seed, spec.train.lr, spec.train.batch_size, spec.resources.micro_batch) == (42, 5e-5, 16, 2)
    assert spec.train.adapter == AdapterSpec(kind="lora", rank=8, alpha=16, dropout=0.05)
    other = load(file, ["train.lr=1e-3", "train.adapter.kind=full", "seed=1"])
    assert (other.seed, other.train.lr, other.train.adapter.kind) == (1, 1e-3, "full")
    with pytest.raises(SpecError, match="`qlora` needs a GPU"):
        load(file, ["train.adapter.kind=qlora", "resources.gpus_per_worker=0"])


def test_the_vision_tower_or_the_projector_is_trained_beside_lora_on_request() -> None:
    network = made()
    adapters.apply(
        network, FAMILY, AdapterSpec(kind="lora", rank=2, modules_to_save=("vision_tower", "multi_modal_projector"))
    )
    whole = {n for n in adapters.trained_names(network) if "lora_" not in n}
    assert {n.split(".")[2] for n in whole} == {"vision_tower", "multi_modal_projector"}
    with pytest.raises(SpecError, match="no part of the model"):
        adapters.apply(made(), FAMILY, AdapterSpec(kind="lora", modules_to_save=("vision_towr",)))


def test_lora_touches_the_language_model_alone() -> None:
    network = made()
    adapters.apply(network, FAMILY, AdapterSpec(kind="lora", rank=2))
    trained = adapters.trained_names(network)
    layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in trained}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all(".language_model." in name and "lora_" in name for name in trained)


def test_the_embedding_stands_once_in_the_weights() -> None:
    network = made()
    assert not [name for name in network.state_dict() if "lm_head" in name]
    assert network.model.lm_head.weight is network.model.get_input_embeddings().weight


def saved(tmp_path: Path, tokenizer: Any = None) -> Path:
    network = made()
    folder = tmp_path / "weights"
    state = {**network.model.state_dict(), "lm_head.weight": network.model.lm_head.weight.clone()}
    network.model.save_pretrained(folder, state_dict=state)
    (tokenizer or network.vocabulary.tokenizer).save_pretrained(folder)
    return folder


def test_weights_from_a_folder_write_what_they_wrote_before(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    check(options(weights=str(folder)))
    image, _ = picture((48, 64))
    texts = []
    for network in (made().eval(), build(options(weights=str(folder)), CLASSES).eval()):
        with torch.inference_mode():
            texts.append([w.text for w in network.ask([image])[0]])
    assert texts[0] == texts[1]


def test_a_tokenizer_without_the_extra_tokens_is_refused_by_the_first_missing_one(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1}, unk_token="<unk>")),
        unk_token="<unk>",
        pad_token="<pad>",
    )
    with pytest.raises(WeightsError, match="must know <loc0000>"):
        build(options(weights=str(saved(tmp_path, plain))), CLASSES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "nowhere/vae-oid.npz"}, "there is no nowhere/vae-oid.npz"),
        ({"weights": "./nowhere"}, "there is no folder"),
    ],
)
def test_check_names_what_is_missing(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        check(options(**changes))


def test_options_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold \{label\}"):
        options(prompt="segment")
    with pytest.raises(WeightsError, match="multiple of 8"):
        made(image_size=60)
    with pytest.raises(WeightsError, match="trained with, 64, times `tiles`, but is 72 times 1"):
        build(options(weights=str(saved(tmp_path)), image_size=72), CLASSES)
    with pytest.raises(SpecError, match="no class of the data"):
        made(synonyms={"disk": ("circle",)})
    with pytest.raises(DataError, match="Rename the class"):
        build(options(), ("disc ; bar",))
