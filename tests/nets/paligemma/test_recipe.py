from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segdist.core.errors import SpecError, WeightsError
from segdist.nets.paligemma import codec_training
from segdist.nets.paligemma.codec_training import CodecTraining, train_codec
from segdist.nets.paligemma.recipe import load_recipe

RECIPE = Path("sweeps/recipes/train_mask_codec.yaml")


def test_the_recipe_in_the_repo_is_valid_executable_and_measures_on_other_masks() -> None:
    recipe = load_recipe(RECIPE, ["train.minutes=5", "parts=2"])
    assert RECIPE.read_text().startswith("#!/usr/bin/env -S segdist paligemma train-codec\n")
    assert RECIPE.stat().st_mode & 0o111
    assert (recipe.train.minutes, recipe.parts) == (5, 2)
    learned = {(s.options()["scene"], s.options()["seed"]) for s in recipe.sources}
    assert not learned & {(s.options()["scene"], s.options()["seed"]) for s in recipe.held_out}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []", "sources"),
        ("[1]", "keys and values"),
        ("a: [", "cannot be read"),
        ("no_key: 1", "sources|no_key"),
    ],
)
def test_a_wrong_recipe_is_refused_by_its_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SpecError, match=message):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")


def squares(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    found = np.zeros((count, 64, 64), np.uint8)
    for square in found:
        y, x = rng.integers(0, 30, 2).tolist()
        cv2.rectangle(square, (x, y), (x + 30, y + 30), 255, -1)
    return found


def test_the_same_seed_trains_the_same_codec() -> None:
    settings = CodecTraining(steps=4, batch_size=4, continuous=0.5, bfloat16=False)
    one, two = (train_codec(squares(8), settings, progress=lambda _: None) for _ in range(2))
    assert all(torch.equal(one.state_dict()[k], v) for k, v in two.state_dict().items())
    assert len({codes for row in one.encode(squares(8)) for codes in row}) > 1


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    settings = CodecTraining(steps=8, batch_size=1, continuous=0.5, bfloat16=False)
    state = tmp_path / "codec.unfinished"
    told: list[str] = []
    covers = squares(8)
    save = codec_training._Training.save

    def saved_and_killed(training: codec_training._Training, file: Path) -> None:
        save(training, file)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_training, "_STEPS_BETWEEN_SAVES", 6)
        patch.setattr(codec_training._Training, "save", saved_and_killed)
        with pytest.raises(KeyboardInterrupt):
            train_codec(covers, settings, progress=told.append, state=state)
    went_on = train_codec(covers, settings, progress=told.append, state=state)
    whole = train_codec(covers, settings, progress=told.append)
    assert told == ["goes on after step 6"]
    assert not state.exists()
    assert all(torch.equal(went_on.state_dict()[k], v) for k, v in whole.state_dict().items())


def test_a_training_does_not_go_on_with_other_settings(tmp_path: Path) -> None:
    state = tmp_path / "codec.unfinished"
    codec_training._Training.begun(CodecTraining(steps=5)).save(state)
    with pytest.raises(WeightsError, match="other settings"):
        train_codec(squares(4), CodecTraining(steps=6), progress=lambda _: None, state=state)


@pytest.mark.slow
def test_training_learns_through_the_codebook() -> None:
    lines: list[str] = []
    covers = squares(64)
    codec = train_codec(covers, CodecTraining(steps=400, batch_size=16), progress=lines.append)
    back, truth = codec.decode(codec.encode(covers)) > 0, covers > 127
    assert ((back & truth).sum((1, 2)) / (back | truth).sum((1, 2))).mean() > 0.85
    assert len(lines) == 2
