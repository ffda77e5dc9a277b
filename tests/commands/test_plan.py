"""What `check` says of a sweep: its plan, and what its maker should know before it runs."""

from pathlib import Path

import pytest

from segdist.commands.plan import describe, teacher_risk
from segdist.core.spec import SweepSpec

DRAWN: dict[str, object] = {"format": "synthetic"}


def spec(folder: Path, teacher: dict[str, object], *sources: dict[str, object]) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "s",
            "storage": str(folder),
            "data": {"sources": list(sources)},
            "label": {"teacher": teacher},
            "model": {"family": "unet_cbam"},
        }
    )


def test_a_teacher_that_knows_drawn_scenes_is_warned_of_where_it_labels_photographs(tmp_path: Path) -> None:
    photographs: dict[str, object] = {"format": "images", "path": str(tmp_path)}
    said = describe(spec(tmp_path, {"family": "sam"}, DRAWN, photographs))
    assert "WARNING   The shipped tiny SAM knows drawn scenes" in said
    assert "mobile_sam" in said
    assert "WARNING" not in describe(spec(tmp_path, {"family": "sam"}, DRAWN))


def test_every_teacher_that_may_label_photographs_is_looked_at(tmp_path: Path) -> None:
    photographs: dict[str, object] = {"format": "images", "path": str(tmp_path)}
    alone = spec(tmp_path, {"family": "classical"}, photographs)
    assert "WARNING" not in describe(alone)
    beside = alone.model_dump(exclude_unset=True)
    beside["label"] |= {"teachers": [{"family": "sam"}], "policy": "auto"}
    assert describe(SweepSpec.model_validate(beside)).count("WARNING   The shipped tiny SAM") == 1
    searched = alone.model_dump(exclude_unset=True)
    searched["space"] = {"label.teacher.family": {"choices": ["classical", "sam"]}}
    assert describe(SweepSpec.model_validate(searched)).count("WARNING   The shipped tiny SAM") == 1


def test_several_teachers_are_named_and_how_one_is_chosen(tmp_path: Path) -> None:
    asked = spec(tmp_path, {"family": "classical"}, DRAWN)
    assert asked.label is not None
    label = type(asked.label).model_validate(
        {"teacher": {"family": "classical"}, "teachers": [{"family": "sam"}], "policy": "auto"}
    )
    said = describe(asked.model_copy(update={"label": label}))
    assert "labels    classical and sam by box, of several the best for each class" in said


@pytest.mark.parametrize(
    "teacher",
    [
        {"family": "sam", "sam": {"size": "vit_t", "weights": "random"}},
        {"family": "sam", "sam": {"weights": "own.safetensors"}},
        {"family": "classical"},
        {"trained": "seams@champion"},
    ],
    ids=lambda teacher: str(teacher)[:40],
)
def test_other_teachers_are_not_warned_of(tmp_path: Path, teacher: dict[str, object]) -> None:
    assert teacher_risk(spec(tmp_path, teacher, {"format": "images", "path": str(tmp_path)})) == ""
