"""Label policies: every combination once, the file's own first, and what cannot be searched is named."""

from pathlib import Path
from typing import Any

import pytest

from segdist.core.errors import SpecError
from segdist.core.spec import SweepSpec
from segdist.searching.space import Space, baseline
from segdist.sweepfile.label_policies import policies, policy_name, run_values
from segdist.sweepfile.loading import load

BOX = {"strategy": "box"}
JITTERED = {"strategy": "jittered_box", "count": 2}


def spec(space: dict[str, Any], **label: Any) -> SweepSpec:
    content = {
        "name": "s",
        "data": {"sources": [{"format": "synthetic"}], "boxes_only": ["train"]},
        "model": {"family": "unet_cbam"},
        "label": {"teacher": {"family": "sam"}, **label},
        "space": space,
    }
    return SweepSpec.model_validate(content)


def test_policies_are_all_combinations_and_the_files_own_comes_first() -> None:
    searched = spec(
        {"label.prompt": [BOX, JITTERED], "label.reject.score": [0.0, 0.7], "train.lr": [0.1, 0.2]}, prompt=JITTERED
    )
    found = list(policies(searched))
    assert len(found) == 4
    assert {(p.spec.label.prompt.strategy, p.spec.label.reject.score) for p in found if p.spec.label} == {
        ("box", 0.0), ("box", 0.7), ("jittered_box", 0.0), ("jittered_box", 0.7),
    }  # fmt: skip
    first = found[0].spec.label
    assert first is not None
    assert (first.prompt.strategy, first.prompt.options()) == ("jittered_box", {"count": 2})
    assert len({p.name for p in found}) == 4


def test_a_sweep_that_searches_no_label_key_has_one_policy() -> None:
    plain = spec({"train.lr": [0.1, 0.2]})
    (only,) = policies(plain)
    assert only.spec is plain
    assert only.name == policy_name({"train.lr": 0.1})


def test_a_part_that_is_null_can_be_searched_into() -> None:
    found = list(policies(spec({"label.consensus": [None, {"views": ["as_is", "mirrored"]}]})))
    assert [p.spec.label.consensus is None for p in found if p.spec.label] == [True, False]


def test_every_trial_finds_its_policy_by_what_the_search_chose() -> None:
    searched = spec({"label.prompt": [BOX, JITTERED], "train.lr": {"low": 0.1, "high": 0.2}})

    class Fixed:
        """Takes the last choice, and the lowest number."""

        def __init__(self) -> None:
            self.params: dict[str, Any] = {}

        def suggest_categorical(self, key: str, choices: list[Any]) -> None:
            assert all(isinstance(c, str) for c in choices), "Optuna stores plain values only"
            self.params[key] = choices[-1]

        def suggest_float(self, key: str, low: float, high: float, **_: Any) -> None:
            self.params[key] = low

    trial = Fixed()
    Space(dict(searched.space))(trial)
    by_name = {p.name: p for p in policies(searched)}
    label = by_name[policy_name(trial.params)].spec.label
    assert label is not None
    assert label.prompt.strategy == "jittered_box"
    assert run_values(trial.params) == {"train.lr": 0.1}
    assert policy_name(baseline(searched)) == next(iter(by_name))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("label.reject.score: {low: 0.1, high: 0.9}", "a label key needs `choices`"),
        ("label.actors: [1, 2]", "does not change what a mask is like"),
        ("label.prompt.strategy: [box, bxo]", "There is no prompt strategy `bxo`"),
        ("label.prompt.strategy: [box, text]", "needs a teacher that takes text prompts"),
        ("label.reject.scor: [0.1, 0.2]", "unknown key `scor`"),
        ("label.reject.score: {choices: [0.1, 0.2], when: {train.lr: 0.1}}", "may name label keys only"),
    ],
)
def test_what_cannot_be_searched_is_named_with_its_line(tmp_path: Path, space: str, message: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\ndata: {sources: [{format: synthetic}]}\nmodel: {family: unet_cbam}\n"
        f"label: {{teacher: {{family: sam}}}}\nspace:\n  train.lr: [0.1, 0.2]\n  {space}\n"
    )
    with pytest.raises(SpecError) as caught:
        load(file)
    assert message in str(caught.value)
    assert "s.yaml:7" in str(caught.value)


def test_policies_are_not_compared_on_masks_that_they_made(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\ndata: {sources: [{format: synthetic}], boxes_only: [train, val]}\nmodel: {family: unet_cbam}\n"
        "label: {teacher: {family: sam}}\nspace:\n  label.prompt.strategy: [box, jittered_box]\n"
    )
    with pytest.raises(SpecError, match=r"data\.boxes_only: policies must be compared on human masks"):
        load(file)
