"""Old names of keys: read with a warning, never beside the new ones; what was recorded stays readable."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segdist.cli import app
from segdist.core import renamed_keys
from segdist.core.errors import SpecError
from segdist.core.renamed_keys import KEYS, SPLIT, VALUES, RenamedKeyWarning, as_first_recorded, current_values
from segdist.core.spec import AdapterSpec, EvaluateSpec, RunSpec, SweepSpec, TrainSpec
from segdist.engine import checkpoint
from segdist.models import unet_cbam
from segdist.sweepfile.loading import load, schema
from tests.engine.drawn import CLASSES, tiny_run

HEAD = """\
name: demo
model: {family: unet_cbam}
data: {sources: [{format: synthetic, scene: roofs, count: 4}]}
"""
OLD = """\
train: {start: model, adapter: {kind: lora, beside: [head]}, augment: [flip, turn], augment_classes: {roof: tilt}}
evaluate: {boundary_width: 3, post: {min_area: 0.01, fill_holes: 20}, tta: [turn]}
label: {teacher: {family: sam}, most_actors: 4, images_per_shard: "${label.most_actors}",
        cpus_per_actor: "${.most_actors}"}
space:
  train.start: [a, b]
  train.lr: {low: 0.001, high: 0.01, when: {train.start: a}}
  train.augment: [[flip, turn], strong]
  evaluate.post.min_area: {low: 2, high: 9}
"""
NEW = """\
train: {init_from: model, adapter: {kind: lora, modules_to_save: [head]},
        augment: [flip, rotate], augment_classes: {roof: perspective}}
evaluate: {boundary_width_pixels: 3, post: {min_area_fraction: 0.01, fill_holes_pixels: 20}, tta: [rotate_180]}
label: {teacher: {family: sam}, max_actors: 4, images_per_shard: 4, cpus_per_actor: 4}
space:
  train.init_from: [a, b]
  train.lr: {low: 0.001, high: 0.01, when: {train.init_from: a}}
  train.augment: [[flip, rotate], strong]
  evaluate.post.min_area_pixels: {low: 2, high: 9}
"""


def write(folder: Path, text: str, name: str = "demo.yaml") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def loaded(file: Path, *overrides: str) -> tuple[SweepSpec, list[str]]:
    """The sweep, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = load(file, overrides)
    assert all(one.category is RenamedKeyWarning for one in caught)
    return found, [str(one.message) for one in caught]


def refusal(file: Path, *overrides: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SpecError) as caught:
            load(file, overrides)
    return str(caught.value)


def keys_of(content: Any) -> set[str]:
    if isinstance(content, dict):
        return set(content) | {key for value in content.values() for key in keys_of(value)}
    return {key for value in content for key in keys_of(value)} if isinstance(content, list) else set()


def test_every_new_name_is_a_key_of_a_sweep_and_no_old_one_is() -> None:
    known = keys_of(schema())
    for old, new in KEYS.items():
        assert old.rpartition(".")[0] == new.rpartition(".")[0], "a key stays in its mapping"
        assert new.rpartition(".")[2] in known
    for fraction, pixels, _ in SPLIT.values():
        assert {name.rpartition(".")[2] for name in (fraction, pixels)} <= known
    assert not set(VALUES) & {*KEYS, *SPLIT}


def test_a_sweep_with_old_names_is_the_same_question_and_every_old_name_is_warned_of(tmp_path: Path) -> None:
    old, said = loaded(write(tmp_path, HEAD + OLD, "old.yaml"))
    new, nothing = loaded(write(tmp_path, HEAD + NEW, "new.yaml"))
    assert nothing == []
    assert old == new
    assert (old.sweep_fingerprint, old.run.fingerprint) == (new.sweep_fingerprint, new.run.fingerprint)
    assert all("the old name stops working with the next release" in one for one in said)
    for line, change in [
        (4, "`train.start` is now `train.init_from`"),
        (4, "`train.adapter.beside` is now `train.adapter.modules_to_save`"),
        (4, "`turn` is now `rotate`"),
        (4, "`tilt` is now `perspective`"),
        (5, "`evaluate.boundary_width` is now `evaluate.boundary_width_pixels`"),
        (5, "`evaluate.post.min_area` is now `evaluate.post.min_area_fraction`"),
        (5, "`evaluate.post.fill_holes` is now `evaluate.post.fill_holes_pixels`"),
        (5, "`turn` is now `rotate_180`"),
        (6, "`label.most_actors` is now `label.max_actors`"),
        (9, "`train.start` is now `train.init_from`"),
        (10, "`train.start` is now `train.init_from`"),
        (11, "values of `train.augment` have new names"),
        (12, "`evaluate.post.min_area` is now `evaluate.post.min_area_pixels`"),
    ]:
        assert any(f"old.yaml:{line}: " in one and change in one for one in said), change
    assert len(said) == 13


def test_fingerprints_are_made_of_the_oldest_names_so_that_what_is_done_stays_done(tmp_path: Path) -> None:
    today = load(write(tmp_path, HEAD + NEW)).model_dump(mode="json")
    recorded = as_first_recorded(today)
    assert recorded["train"]["start"] == "model"
    assert recorded["train"]["accumulate"] == 1, "a key that there was"
    assert recorded["train"]["adapter"]["beside"] == ["head"]
    assert recorded["train"]["augment_classes"] == {"roof": "tilt"}
    assert recorded["evaluate"]["boundary_width"] == 3
    assert {key: recorded["evaluate"]["post"][key] for key in ("min_area", "fill_holes")} == {
        "min_area": 0.01,
        "fill_holes": 20,
    }
    assert set(recorded["space"]) == {"train.start", "train.lr", "train.augment", "evaluate.post.min_area"}
    assert recorded["space"]["train.lr"]["when"] == {"train.start": "a"}
    assert recorded["space"]["train.augment"]["choices"] == [["flip", "turn"], "strong"]
    assert not keys_of(recorded) & {name.rpartition(".")[2] for name in KEYS.values()}
    assert SweepSpec.model_validate(recorded) == SweepSpec.model_validate(today)
    usual = as_first_recorded({"evaluate": EvaluateSpec().model_dump(mode="json")})
    assert usual["evaluate"]["boundary_width"] == 0.02


def test_a_key_that_came_later_is_in_no_fingerprint_where_it_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_before = [f"{key}={json.dumps(value)}" for key, value in renamed_keys.LATER.items()]
    sweep, _ = loaded(write(tmp_path, f"{HEAD}label: {{teacher: {{family: classical}}}}\n"), *as_before)
    assert as_before
    content = sweep.model_dump(mode="json")
    for key in renamed_keys.LATER:
        *parents, leaf = key.split(".")
        assert leaf in renamed_keys._at(content, parents), "it is a key of a sweep"
        assert leaf not in renamed_keys._at(renamed_keys.without_later(content), parents)
    other = sweep.model_copy(update={"train": sweep.train.model_copy(update={"ema": 0.2})})
    assert other.sweep_fingerprint != sweep.sweep_fingerprint
    assert other.run.fingerprint != sweep.run.fingerprint
    was = sweep.sweep_fingerprint, sweep.run.fingerprint
    monkeypatch.setattr(renamed_keys, "LATER", {})
    assert sweep.sweep_fingerprint != was[0]
    assert sweep.run.fingerprint != was[1]


def test_old_names_in_files_that_defaults_name_are_warned_of_where_they_stand(tmp_path: Path) -> None:
    write(tmp_path, "lr: 0.01\nstart: model\n", "train/slow.yaml")
    file = write(tmp_path, f"defaults: [train: slow, _self_]\n{HEAD}")
    found, said = loaded(file)
    assert found.train.init_from == "model"
    assert len(said) == 1
    assert "train/slow.yaml:2: train.start" in said[0]


@pytest.mark.parametrize("text", ["", "train: {start: model}\n", "train: {init_from: model}\n"])
@pytest.mark.parametrize("key", ["train.start", "train.init_from"])
def test_the_command_line_wins_by_either_name(tmp_path: Path, text: str, key: str) -> None:
    found, said = loaded(write(tmp_path, HEAD + text), f"{key}=other")
    assert found.train.init_from == "other"
    of_command_line = [one for one in said if one.startswith("command line: train.start: ")]
    assert len(of_command_line) == (key == "train.start")


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["train={start: other}"], {"train": {"init_from": "other"}}),
        (["++train.adapter={beside: [head]}"], {"train": {"adapter": {"modules_to_save": ["head"]}}}),
        (["train.adapter.beside=[head]"], {"train": {"adapter": {"modules_to_save": ["head"]}}}),
        (["train.augment=[flip,turn]"], {"train": {"augment": ["flip", "rotate"]}}),
        (["evaluate.boundary_width=0.5"], {"evaluate": {"boundary_width_fraction": 0.5}}),
        (["evaluate.post.min_area=7"], {"evaluate": {"post": {"min_area_pixels": 7, "min_area_fraction": 0}}}),
        (["~evaluate.post.min_area"], {"evaluate": {"post": {"min_area_pixels": 0, "min_area_fraction": 0}}}),
        (["~train.start"], {"train": {"init_from": ""}}),
        (["space.train.start=[a,b]"], {"space": {"train.init_from": {"choices": ["a", "b"]}}}),
        (["space={train.start: [a, b]}"], {"space": {"train.init_from": {"choices": ["a", "b"]}}}),
        (["~space.train.start"], {"space": {"evaluate.post.min_area_fraction": {"low": 0.1, "high": 0.2}}}),
        (["space.train.start.choices=[a]"], {"space": {"train.init_from": {"choices": ["a"]}}}),
    ],
    ids=str,
)  # fmt: skip
def test_old_names_on_the_command_line(tmp_path: Path, overrides: list[str], wanted: dict[str, Any]) -> None:
    """Over a file with old names: `~` and bounds need something that is there."""
    text = """\
train: {start: model}
evaluate: {post: {min_area: 0.01}}
space: {train.start: {choices: [c]}, evaluate.post.min_area: {low: 0.1, high: 0.2}}
"""
    found, said = loaded(write(tmp_path, HEAD + text), *overrides)
    assert_has(found.model_dump(mode="json"), wanted)
    assert len([one for one in said if one.startswith("command line: ")]) == 1


def assert_has(content: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if isinstance(value, dict) and value:
            assert_has(content[key], value)
        else:
            assert content[key] == value


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("train: {start: a, init_from: a}", [], "`train.start` is the old name of"),
        ("evaluate: {boundary_width: 2, boundary_width_pixels: 2}", [], "`evaluate.boundary_width` is the old name of"),
        ("evaluate: {boundary_width_fraction: 0.1, boundary_width_pixels: 2}", [], "must be null"),
        ("space: {train.start: [a, b], train.init_from: [a, b]}", [], "is the old name of"),
        ("", ["train.start=a", "train.init_from=b"], "is given twice"),
        ("", ["train={start: a, init_from: b}"], "is the old name of"),
        ("space: {evaluate.post.min_area: [0.01, 20]}", [], "is two keys now"),
        ("environment: [AREA]\nevaluate: {post: {min_area: '${oc.env:AREA}'}}", [], "is two keys now"),
        ("train: {start: 2}", [], ":4: train.init_from: Input should be a valid string"),
        ("evaluate: {boundary_width: -2}", [], ":4: evaluate.boundary_width_fraction: Input should be greater than 0"),
        ("evaluate: {post: {min_area: many}}", [], ":4: evaluate.post.min_area_fraction: Input should be a valid"),
        ("space: {train.start: [2]}", [], ":4: space.train.init_from: 2 is not"),
        ("", ["train.start=2"], "command line: train.init_from: Input should be a valid"),
    ],
)  # fmt: skip
def test_what_is_wrong_under_an_old_name_is_said_with_its_place(
    tmp_path: Path, text: str, overrides: list[str], said: str
) -> None:
    assert said in refusal(write(tmp_path, f"{HEAD}{text}\n"), *overrides)


def test_a_family_from_elsewhere_may_have_old_names_in_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = replace(unet_cbam.FAMILY, recipe={"train.start": "theirs"})
    monkeypatch.setattr(unet_cbam, "FAMILY", family)
    assert load(write(tmp_path, HEAD)).train.init_from == "theirs"
    given = write(tmp_path, f"{HEAD}train: {{init_from: ours}}\n")
    assert load(given).train.init_from == "ours"


def test_a_run_takes_old_names_as_values_of_a_trial() -> None:
    run = RunSpec.model_validate({"model": {"family": "unet_cbam"}, "evaluate": {"boundary_width": 0.1}})
    changed = run.override({"train.start": "model", "evaluate.boundary_width": 3, "train.augment": '["turn"]'})
    assert changed.train.init_from == "model"
    assert (changed.evaluate.boundary_width_pixels, changed.evaluate.boundary_width_fraction) == (3, None)
    assert changed.train.augment == ("rotate",)
    with pytest.raises(ValueError, match="given twice"):
        current_values({"train.start": "a", "train.init_from": "a"})


@pytest.mark.parametrize("key", ["accumulate", "gradient_accumulation_steps"])
def test_a_batch_that_was_of_one_worker_and_pass_is_read_as_that_of_a_step(tmp_path: Path, key: str) -> None:
    text = f"{HEAD}train: {{batch_size: 2, {key}: 8}}\nresources: {{workers: 2}}\n"
    found, said = loaded(write(tmp_path, text))
    assert (found.train.batch_size, found.resources.micro_batch) == (32, 2)
    assert len(said) == 1
    assert f"demo.yaml:4: train.{key}: `train.{key}` is part of `train.batch_size` now" in said[0]
    assert current_values({f"train.{key}": 4, "train.batch_size": 2}) == {"train.batch_size": 8}
    assert TrainSpec.model_validate({key: 1}) == TrainSpec()
    recorded = {"model": {"family": "unet_cbam"}, "train": {"batch_size": 4, key: 1}}
    assert RunSpec.model_validate(recorded).train.batch_size == 4


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("train: {accumulate: 4}", []),
        ("train: {batch_size: 4, accumulate: 0}", []),
        ("train: {batch_size: '${seed}', accumulate: 2}", []),
        ("train: {batch_size: 4}", ["train.gradient_accumulation_steps=2"]),
        ("train: {batch_size: 4}", ["train.gradient_accumulation_steps=many"]),
    ],
)
def test_an_old_number_of_passes_without_a_batch_size_is_refused_with_the_fix(
    tmp_path: Path, text: str, overrides: list[str]
) -> None:
    said = refusal(write(tmp_path, f"{HEAD}{text}\n"), *overrides)
    assert "is gone: write `train.batch_size` for the images of a step of the optimiser" in said


def test_a_model_that_was_saved_under_old_names_is_loaded(tmp_path: Path) -> None:
    network = checkpoint.build(tiny_run().model, CLASSES)
    checkpoint.save(network, tmp_path, tiny_run(), CLASSES)
    content = json.loads((tmp_path / "model.json").read_text())
    content["adapter"]["beside"] = content["adapter"].pop("modules_to_save")
    for key in ("boundary_width_fraction", "boundary_width_pixels"):
        del content["evaluate"][key]
    for key in [key for key in content["evaluate"]["post"] if key.startswith(("min_area", "fill_holes"))]:
        del content["evaluate"]["post"][key]
    content["evaluate"] |= {"boundary_width": 0.02, "tta": ["turn"]}
    content["evaluate"]["post"] |= {"min_area": 9, "fill_holes": 0.0}
    (tmp_path / "model.json").write_text(json.dumps(content))
    described = checkpoint.describe(tmp_path)
    assert described.adapter == AdapterSpec()
    assert described.evaluate == EvaluateSpec.model_validate(
        {
            **tiny_run().evaluate.model_dump(),
            "boundary_width_fraction": 0.02,
            "tta": ["rotate_180"],
            "post": {"min_area_pixels": 9},
        }
    )


def test_options_of_evaluate_have_new_names_and_warn_by_the_old_ones(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "200"}).output
    assert "--min-area-fraction" in shown
    assert "--min-area " not in shown
    with pytest.warns(RenamedKeyWarning, match="--min-area: it is now `--min-area-pixels`"):
        CliRunner().invoke(app, ["evaluate", str(tmp_path), str(tmp_path), "--min-area", "9"])
    twice = CliRunner().invoke(
        app, ["evaluate", str(tmp_path), str(tmp_path), "--min-area", "9", "--min-area-pixels", "9"]
    )
    assert twice.exit_code == 2
    assert "`evaluate.post.min_area_pixels` is given twice" in " ".join(twice.stderr.split())
