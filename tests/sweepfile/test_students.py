"""Who learns in rounds of self-training: the model that the file names, or a small one; nonsense is named."""

from pathlib import Path

import pytest

from segdist.core import extras
from segdist.core.errors import SpecError
from segdist.core.spec import LabelSpec
from segdist.sweepfile.loading import load
from segdist.sweepfile.students import student_model, student_of

SWEEP = """\
name: s
data: {{sources: [{{format: synthetic}}], boxes_only: [train]}}
model: {{family: unet_cbam}}
label:
  teacher: {{family: classical}}
  {more}
"""


def _load(folder: Path, more: str) -> LabelSpec:
    file = folder / "s.yaml"
    file.write_text(SWEEP.format(more=more))
    found = load(file).label
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("rounds: 6", r"s\.yaml:6: label\.rounds.*less than or equal to 5"),
        ("rounds: -1", r"s\.yaml:6: label\.rounds"),
        ("student: {epochs: 3}", r"s\.yaml:6: label\.student.*there is none: set `label.rounds: 1`"),
        ("rounds: 1\n  student: {epoch: 3}", r"s\.yaml:7: label\.student.*epoch"),
        ("rounds: 1\n  splits: [val]", r"s\.yaml:6: label\.rounds.*add `train` to `label.splits`"),
        ("rounds: 1\n  student: {model: {family: unet}}", r"s\.yaml:7: label\.student\.model.*unet_cbam"),
        ("rounds: 1\n  student: {model: {family: classical}}", r"s\.yaml:7: .*nothing to train, so it is no student"),
        ("rounds: 1\n  student: {model: {family: sam, sam: {size: tiny}}}", r"s\.yaml:7: .*shown the image alone"),
        ("rounds: 1\n  student: {model: {family: unet_cbam, unet_cbam: {widht: 4}}}", r"s\.yaml:7: .*widht.*width"),
        ("rounds: 1\n  student: {max_steps: 0}", r"s\.yaml:7: label\.student\.max_steps"),
    ],
)
def test_students_that_cannot_learn_are_refused_with_line_and_fix(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _load(tmp_path, more)


def test_students_may_wait_for_rounds_that_are_searched(tmp_path: Path) -> None:
    policy = _load(tmp_path, "student: {epochs: 3}\nspace: {label.rounds: [0, 1]}")
    assert (policy.rounds, student_of(policy).epochs) == (0, 3)


def test_who_learns_is_small_and_pretrained_where_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _load(tmp_path, "rounds: 1\n  student: {model: {family: segformer, segformer: {weights: random}}}")
    assert student_model(own).family == "segformer"
    policy = _load(tmp_path, "rounds: 1")
    monkeypatch.setattr(extras, "missing", lambda _: [])
    assert student_model(policy).family_options()["weights"] == "packaged"
    monkeypatch.setattr(extras, "missing", lambda _: ["timm"])
    assert set(student_model(policy).family_options()) == {"image_size"}
