"""Several teachers: one elected for each class, or all of them voting."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdist.core import masks, storage
from segdist.core.errors import SpecError
from segdist.core.plugins import Question
from segdist.core.spec import LabelSpec, SweepSpec
from segdist.datasets.shards import Dataset, read_samples
from segdist.labelling.corrections import Corrections, corrections_uri
from segdist.pages.labels import label_choices
from segdist.pipeline import label as module
from segdist.pipeline import label_pool
from segdist.pipeline.ingest import ingest
from segdist.pipeline.label import label, label_key, label_root
from segdist.pipeline.label_rows import LabelJob, PollUnit, TeacherMaker
from segdist.pipeline.panel import Panel, members
from segdist.sweepfile.loading import load

THIN: dict[str, Any] = {"family": "classical", "classical": {"method": "thin"}}
OTSU: dict[str, Any] = {"family": "classical", "classical": {"method": "otsu"}}


def sweep(folder: Path, **policy: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "s",
            "storage": str(folder / "storage"),
            "data": {
                "sources": [{"format": "synthetic", "scene": "cracks", "count": 24, "size": 96}],
                "split": {"val": 0.25, "test": 0.25, "seed": 0},
                "boxes_only": ["train"],
            },
            "label": {"teacher": THIN, **policy},
            "model": {"family": "unet_cbam"},
        }
    )


def made(folder: Path, **policy: Any) -> Dataset:
    spec = sweep(folder, **policy)
    return label(spec, ingest(spec))


@pytest.mark.usefixtures("cluster")
def test_each_class_gets_the_teacher_nearest_to_human_masks_and_the_labels_say_who_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = made(tmp_path, policy="auto", teachers=[OTSU])
    (choice,) = labels.manifest.details["choices"].values()
    assert choice["by"] == "masks", "the masks of val are there"
    assert set(choice["would_give"]) == {"classical thin", "classical otsu", "classical box"}
    assert choice["teacher"] == "classical thin", "nobody is better than the named teacher by more than chance"
    assert choice["would_give"]["classical thin"] > choice["would_give"]["classical box"]
    (said,) = label_choices(labels.manifest.details)
    assert said.startswith(
        f"crack: labelled by {choice['teacher']}, by human masks of {choice['objects']} objects; mean IoU with"
    )
    quality = labels.manifest.details["quality"]
    assert quality["iou"] > quality["box_fill_iou"]
    assert set(quality["strategies"]) == set(choice["would_give"])
    asked_again, asked = list[Any](), label_pool.asked

    def noted(units: Sequence[Any], *how: Any) -> Iterator[str]:
        asked_again.extend(units)
        return asked(units, *how)

    monkeypatch.setattr(label_pool, "asked", noted)
    first, *others = sorted(Path(labels.uri).glob("polled-*.json"))
    assert others
    for file in (first, Path(labels.uri) / "manifest.json"):
        file.unlink()
    again = made(tmp_path, policy="auto", teachers=[OTSU]).manifest
    assert again.content_hash == labels.manifest.content_hash
    assert again.details["choices"] == labels.manifest.details["choices"]
    assert [Path(unit["target"]) for unit in asked_again] == [first], "the others have answered"


@pytest.mark.usefixtures("cluster")
def test_without_human_masks_the_named_teacher_labels(tmp_path: Path) -> None:
    spec = sweep(tmp_path, policy="auto", teachers=[OTSU])
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"boxes_only": ("train", "val")})})
    (choice,) = label(spec, ingest(spec)).manifest.details["choices"].values()
    assert (choice["teacher"], choice["by"]) == ("classical thin", "name")


def test_a_teacher_that_is_named_twice_is_asked_once() -> None:
    label = LabelSpec.model_validate({"teacher": THIN, "teachers": [OTSU, THIN, OTSU], "policy": "auto"})
    assert [one.name for one in label.asked] == ["classical thin", "classical otsu", "classical box"]
    other = {"family": "classical", "classical": {"method": "grabcut", "iterations": 2}}
    grabcut = {"family": "classical", "classical": {"method": "grabcut", "iterations": 3}}
    assert len(LabelSpec.model_validate({"teacher": grabcut, "teachers": [other], "policy": "auto"}).asked) == 3


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labelling without Ray, by actors in this process."""

    def asked(units: Sequence[Any], job: LabelJob, teacher: TeacherMaker, actor: Callable[..., Any]) -> Iterator[str]:
        asking = actor(job, teacher)
        yield from (asking(unit)["text"] for unit in units)

    monkeypatch.setattr(label_pool, "asked", asked)


@pytest.mark.usefixtures("here")
def test_what_people_corrected_decides_who_labels_the_others(tmp_path: Path) -> None:
    """The report asks for five corrected masks that would decide: here they are, and a box in which nothing is."""
    spec = sweep(tmp_path, policy="auto", teachers=[OTSU])
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"boxes_only": ("train", "val")})})
    dataset = ingest(spec)
    before = label(spec, dataset)
    assert [(c["teacher"], c["by"]) for c in before.manifest.details["choices"].values()] == [
        ("classical thin", "name")
    ]

    learned_from = [s for s in dataset.samples() if s.split != "test" and s.instances]
    drawn = {s.image_id: {0: masks.from_box(s.instances[0].box_xyxy, size_hw=s.size_hw)} for s in learned_from[:6]}
    nothing = {learned_from[6].image_id: {0: None}}
    Corrections({**drawn, **nothing}).save(corrections_uri(spec.storage, dataset.uri))
    after = label(spec, dataset)
    (choice,) = after.manifest.details["choices"].values()
    assert (choice["teacher"], choice["by"], choice["objects"]) == ("classical box", "masks", 6)
    assert after.manifest.details["corrected"] == 7
    assert all(
        i.mask in (masks.from_box(i.box_xyxy, size_hw=s.size_hw), masks.empty(s.size_hw))
        for s in after.samples()
        if s.split != "test"
        for i in s.instances
    ), "as those that people drew: the others are labelled anew, by the one chosen"
    vote = spec.model_copy(update={"label": LabelSpec.model_validate({"teacher": THIN})})
    assert label_root(vote, dataset) in label(vote, dataset).uri, "one teacher alone is not asked again"
    assert "heeds" not in label_root(vote, dataset)


@pytest.mark.usefixtures("cluster")
def test_all_teachers_vote_where_consensus_says_how(tmp_path: Path) -> None:
    labels = made(tmp_path, teachers=[OTSU, {"family": "classical", "classical": {"method": "line"}}], consensus={})
    voted = [i for s in labels.samples() for i in s.instances if i.evidence and i.evidence.agreement is not None]
    assert voted
    assert set(labels.manifest.details["quality"]["strategies"]) == {
        "classical thin",
        "classical otsu",
        "classical line",
    }


@pytest.fixture
def poll_of_six(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[PollUnit]]:
    """Who is polled where six images may be, by the splits whose masks are hidden."""
    spec = sweep(tmp_path, policy="auto")
    dataset, policy = ingest(spec), spec.label
    assert policy is not None
    monkeypatch.setattr(label_pool, "POLLED_IMAGES", 6)
    return lambda *hidden: label_pool.polled(dataset, LabelJob(policy, dataset.manifest.classes, hidden, ""), str)


def test_a_poll_leaves_the_test_split_alone_and_spreads_over_the_others(
    poll_of_six: Callable[..., list[PollUnit]],
) -> None:
    units = poll_of_six("train")
    assert {unit["shard"].rpartition("/")[2].partition("-")[0] for unit in units} == {"train", "val"}
    assert 4 <= sum(len(unit["rows"]) for unit in units) <= 6


def test_most_of_those_who_are_polled_show_a_human_mask_where_so_many_do(
    poll_of_six: Callable[..., list[PollUnit]],
) -> None:
    def asked(*hidden: str) -> Counter[str]:
        found = Counter[str]()
        for unit in poll_of_six(*hidden):
            samples = read_samples(unit["shard"])
            found.update(samples[row].split for row in unit["rows"] if any(i.mask for i in samples[row].instances))
        return found

    assert asked("train")["val"] >= 3, "of those in val, which is a third as large"
    assert asked("train", "val")["train"] >= 3, "where none may be seen, all images are alike"
    assert asked("val")["train"] >= 3


def test_one_teacher_alone_is_asked_as_before_under_the_names_of_its_prompts(tmp_path: Path) -> None:
    spec = LabelSpec.model_validate({"teacher": OTSU})
    assert members(spec) == [spec]
    sample = next(iter(ingest(sweep(tmp_path)).samples()))
    image = np.full((*sample.size_hw, 3), 90, np.uint8)
    ((first, *_),) = Panel(spec, ("crack",)).candidates([Question(sample, [0], image)])
    assert [c.strategy for c in first] == ["box"]


def test_labels_have_the_key_they_had_before_teachers_were_elected_unless_they_are(tmp_path: Path) -> None:
    spec = sweep(tmp_path)
    dataset = ingest(spec)
    keys = {
        label_key(sweep(tmp_path, **more), dataset)
        for more in ({}, {"policy": "auto"}, {"policy": "auto", "teachers": [OTSU]})
    }
    assert len(keys) == 3
    how = json.dumps(LabelSpec.model_validate({"teacher": THIN}).model_dump(mode="json", exclude=module._HOW_FAST))
    assert '"policy": "vote"' in how, "which is left out of the key"
    assert storage.exists(dataset.uri)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"teachers": [OTSU]}, "makes one mask of several by `consensus`"),
        ({"policy": "auto", "consensus": {}}, "goes without `consensus`"),
        ({"policy": "auto", "teachers": [{"trained": "a@champion"}]}, "`label.teachers` are families"),
    ],
)
def test_policies_that_do_not_go_together_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSpec.model_validate({"teacher": THIN, **more})


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ("{family: clasical}", r"s\.yaml:4: label\.teachers\.0.*clasical.*Did you mean `classical`"),
        ("{family: classical, classical: {methd: otsu}}", r"methd"),
        ("{family: sam, sam: {weights: nowhere.pth}}", r"there is no nowhere\.pth"),
    ],
)
def test_further_teachers_are_looked_at_before_anything_starts(tmp_path: Path, further: str, message: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        f"name: s\nstorage: {tmp_path}\ndata: {{sources: [{{format: synthetic}}]}}\n"
        f"label: {{policy: auto, teacher: {{family: classical}}, teachers: [{further}]}}\n"
        "model: {family: unet_cbam}\n"
    )
    with pytest.raises(SpecError, match=message):
        load(file)


def test_a_teacher_is_named_by_what_was_set_of_it() -> None:
    spec = LabelSpec.model_validate({"teacher": {"family": "sam", "sam": {"weights": "weights/mobile_sam.pt"}}})
    assert spec.teacher.name == "sam mobile_sam.pt"
