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


def test_the_plan_says_who_labels_and_which_others_may(tmp_path: Path) -> None:
    thin = spec(tmp_path, {"family": "classical", "classical": {"method": "thin"}}, DRAWN).model_dump(
        exclude_unset=True
    )

    def labels(**label: object) -> str:
        said = describe(SweepSpec.model_validate({**thin, "label": {**thin["label"], **label}}))
        return next(line for line in said.splitlines() if "labels" in line).removeprefix("  labels    ")

    otsu = {"family": "classical", "classical": {"method": "otsu"}}
    assert labels() == "classical thin by box"
    assert labels(teachers=[otsu], policy="auto").startswith("classical thin by box; classical otsu or the filled box ")
    assert labels(teachers=[otsu], consensus={}) == "classical thin and classical otsu by box"


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
