"""A sweep file with anything wrong is refused with file, line, key and the nearest right one."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from segdist.core import extras
from segdist.core.errors import SpecError
from segdist.core.spec import Range
from segdist.sweepfile.loading import load, schema

GOOD = """\
defaults:
  - search: few
  - _self_
name: demo
data:
  sources:
    - {format: synthetic, scene: roofs, count: 4}
model:
  family: unet_cbam
  unet_cbam: {image_size: 64}
train:
  lr: 1e-3
space:
  train.lr: {low: 1e-4, high: 1e-2, log: true}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "few.yaml").write_text("trials: 3\n")
    (tmp_path / "search" / "many.yaml").write_text("trials: 30\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "demo.yaml"
    file.write_text(text)
    return file


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load(file, overrides)
    return str(caught.value)


def test_a_file_composes_with_its_groups_and_overrides(folder: Path) -> None:
    file = write(folder, GOOD)
    assert load(file).search.trials == 3
    assert load(file, ["search.trials=5"]).search.trials == 5
    assert load(file, ["search=many"]).search.trials == 30
    spec = load(file, ["storage=scratch/x", "train.weight_decay=1e-2", "space.train.lr.high=0.1"])
    assert spec.storage == "scratch/x"
    assert spec.train.weight_decay == 0.01
    assert spec.space["train.lr"] == Range(low=1e-4, high=0.1, log=True)


def test_storage_is_absolute_by_default_so_that_jobs_and_users_agree(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(folder, GOOD)
    monkeypatch.setenv("SEGDIST_STORAGE", "/somewhere")
    assert load(file).storage == "/somewhere"
    monkeypatch.delenv("SEGDIST_STORAGE")
    monkeypatch.setenv("HOME", "/home/me")
    assert load(file).storage == "/home/me/segdist"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("  lr: 1e-3", "  lrr: 1e-3", 12, "unknown key `lrr`. Did you mean `lr`?"),
        ("  lr: 1e-3", "  lr: fast", 12, "but got 'fast'"),
        ("  lr: 1e-3", "  lr: -1", 12, "greater than 0"),
        ("family: unet_cbam", "family: unet_cbm", 9, "Did you mean `unet_cbam`?"),
        ("{image_size: 64}", "{image_sise: 64}", 10, "Did you mean `image_size`?"),
        ("format: synthetic", "format: sinthetic", 7, "Did you mean `synthetic`?"),
        ("scene: roofs", "scene: rofs", 7, "scene"),
        ("low: 1e-4, high: 1e-2", "low: 1e-2, high: 1e-4", 14, "`low < high` must hold, but got low=0.01, high=0.0001"),
        ("  train.lr: {", "  train.lrr: {", 14, "Did you mean `lr`?"),
        ("  train.lr: {", "  data.lr: {", 14, "not a key of a run"),
        ("  train.lr: {low: 1e-4", "  train.lr: {low: -1, log: false, high: 2} #", 14, "-1"),
        ("  lr: 1e-3", "  loss: {dicee: 1.0}", 12, "Did you mean `dice`?"),
        ("  train.lr: {", "  train.loss.dicee: {", 14, "Did you mean `dice`?"),
        ("  train.lr: {", "  train.lr: {when: {model.family: sam}, ", 14, "is not searched"),
        ("  lr: 1e-3", "  augment: [flipp]", 12, "Did you mean `flip`?"),
    ],
)
def test_a_mistake_is_named_with_line_and_fix(folder: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in GOOD
    file = write(folder, GOOD.replace(old, new, 1))
    message = refusal(file)
    assert message.startswith(f"{file}:{line}: ")
    assert said in message


@pytest.mark.parametrize(
    ("search", "key", "said"),
    [
        ("points: [{train.lr: 5e-4}, {train.lr: 5}]", "search.points.1", "train.lr cannot be 5"),
        ("try_each: train.lr", "search.try_each", "must name a key of `space` that has choices"),
        ("{objectives: [val/iou]}", "search.objectives", "each once, but val/iou stands twice"),
        ("warm_start: 3", "search.warm_start", "should be a list, but got 3"),
        ("{trials: 2, points: [{train.lr: 1e-3}, {train.lr: 5e-4}]}", "search.trials", "must be at least 3"),
    ],
)
def test_a_rule_about_several_keys_is_named_with_the_line_of_the_first(
    folder: Path, search: str, key: str, said: str
) -> None:
    text = search if search.startswith("{") else f"{{{search}}}"
    file = write(folder, GOOD.replace("  - search: few\n", "") + f"search:\n  {text}\n")
    message = refusal(file)
    assert message.startswith(f"{file}:15: {key}: ")
    assert said in message


def test_every_mistake_is_named_at_once(folder: Path) -> None:
    file = write(folder, GOOD.replace("  lr: 1e-3", "  lrr: 1\n  batchsize: 2"))
    assert len(refusal(file).splitlines()) == 2


def test_a_mistake_in_a_group_file_names_that_file(folder: Path) -> None:
    (folder / "search" / "few.yaml").write_text("# few\ntrails: 3\n")
    file = write(folder, GOOD)
    assert refusal(file).startswith(f"{folder / 'search' / 'few.yaml'}:2: search.trails: unknown key")


def test_a_mistake_on_the_command_line_says_so(folder: Path) -> None:
    file = write(folder, GOOD)
    assert refusal(file, "train.lrr=1").startswith("command line: train.lrr: unknown key `lrr`. Did you mean `lr`?")
    assert refusal(file, "lable.teacher.family=sam").startswith("command line: lable: unknown key `lable`.")
    assert refusal(file, "train.adaptor.kind=lora").startswith("command line: train.adaptor: unknown key `adaptor`.")
    assert "key=value" in refusal(file, "train.lr")


def test_boxes_are_not_shown_to_a_family_that_cannot_use_them(folder: Path) -> None:
    file = write(folder, GOOD + "evaluate: {prompts: box}\n")
    assert "cannot be shown boxes" in refusal(file)


def test_a_missing_file_names_the_nearest(folder: Path) -> None:
    write(folder, GOOD)
    assert "Did you mean `demo.yaml`?" in refusal(folder / "dmo.yaml")


def test_broken_yaml_names_the_line(folder: Path) -> None:
    file = write(folder, "name: demo\ndata: [\n")
    assert refusal(file).startswith(f"{file}:3: must be YAML")


def test_the_schema_lists_every_family_and_format_with_its_options() -> None:
    whole = schema()
    assert "image_size" in whole["$defs"]["ModelSpec"]["properties"]["unet_cbam"]["properties"]
    formats = {o["properties"]["format"]["const"] for o in whole["$defs"]["SourceSpec"]["oneOf"]}
    assert {"coco", "synthetic"} <= formats
    assert whole["properties"]["seed"]["description"] == "Seed of weights, order and augmentation."


@pytest.mark.parametrize("file", sorted(Path("sweeps").rglob("*.yaml")), ids=str)
def test_every_sweep_in_the_repo_is_valid_and_executable(file: Path) -> None:
    if file.parent.name == "search":
        pytest.skip("a config group, not a sweep")
    text = file.read_text()
    if text.startswith("#!/usr/bin/env -S segdist paligemma train-codec\n"):
        pytest.skip("a recipe of the mask codec; tests/nets/paligemma/test_recipe.py loads it")
    assert text.startswith("#!/usr/bin/env -S segdist run\n")
    assert file.stat().st_mode & 0o111, f"chmod +x {file}"
    assert load(file).name == file.stem


def test_conditions_that_lead_back_to_their_own_key_are_refused(folder: Path) -> None:
    file = write(
        folder,
        GOOD
        + "  train.epochs: {choices: [1, 2], when: {seed: 1}}\n"
        + "  seed: {choices: [1, 2], when: {train.epochs: 2}}\n",
    )
    assert "must not lead back" in refusal(file)


def test_an_adapter_that_a_family_has_not_is_refused_with_those_it_has(folder: Path) -> None:
    file = write(folder, GOOD)
    assert refusal(file, "train.adapter.kind=conv_lora").startswith(
        "command line: train.adapter.kind: `unet_cbam` has no adapter `conv_lora`. It supports: full, "
    )
    searched = write(folder, GOOD + "  train.adapter.kind: [full, qlora]\n")
    assert "space.train.adapter.kind: `unet_cbam` has no adapter `qlora`" in refusal(searched)


def test_an_adapter_is_asked_of_those_families_alone_that_it_is_searched_for(folder: Path) -> None:
    kind = "{choices: [conv_lora], when: {model.family: sam}}"
    space = f"  model.family: [unet_cbam, sam]\n  train.adapter.kind: {kind}\n"
    assert load(write(folder, GOOD.replace("image_size: 64}", "image_size: 64}\n  sam: {prompt: class}") + space))


def test_qlora_without_a_gpu_is_refused_before_the_start(folder: Path) -> None:
    file = write(folder, GOOD.replace("family: unet_cbam", "family: sam\n  sam: {prompt: class}"))
    overrides = ("train.adapter.kind=qlora", "resources.gpus_per_worker=0")
    assert "`qlora` needs a GPU. Set `resources.gpus_per_worker: 1`" in refusal(file, *overrides)


def test_what_cannot_be_divided_over_workers_is_refused(folder: Path) -> None:
    file = write(folder, GOOD.replace("family: unet_cbam", "family: sam\n  sam: {prompt: class, embeddings: cache}"))
    divided = ("resources.strategy=fsdp", "resources.workers=2")
    assert "model.sam.embeddings: `resources.strategy: fsdp` needs `embeddings: compute`" in refusal(file, *divided)
    assert "cannot divide weights of four bits" in refusal(file, *divided, "train.adapter.kind=qlora")
    assert load(write(folder, GOOD), divided).resources.strategy == "fsdp"


PHASES = GOOD.replace("lr: 1e-3", "phases: [{epochs: 3, freeze: encoder, lr: 1e-3}, {epochs: 7, lr: 1e-4}]").replace(
    "train.lr:", "train.phases.1.lr:"
)


def test_a_searched_backbone_that_its_weights_are_not_of_is_refused_before_a_trial_starts(folder: Path) -> None:
    text = GOOD.replace("unet_cbam: {image_size: 64}", "unet_cbam: {backbone: efficientnet_lite0, weights: packaged}")
    file = write(folder, text + "  model.unet_cbam.backbone: [efficientnet_lite1, resnet18]\n")
    said = refusal(file)
    assert "demo.yaml:15: space.model.unet_cbam.backbone: 'resnet18' is not possible: `weights: packaged`" in said
    load(file, ["space.model.unet_cbam.backbone=[efficientnet_lite1, scratch]"])
    pairs = "space.model.unet_cbam.weights={choices: [random], when: {model.unet_cbam.backbone: resnet18}}"
    load(file, [pairs])


def test_the_rate_of_a_phase_can_be_searched(folder: Path) -> None:
    spec = load(write(folder, PHASES))
    assert spec.train.total_epochs == 10
    run = spec.run.override({"train.phases.1.lr": 5e-4})
    assert [p.lr for p in run.train.phases] == [1e-3, 5e-4]
    assert "`train.phases.2.lr` is of an entry that its list does not have" in refusal(
        write(folder, PHASES.replace("phases.1.lr", "phases.2.lr"))
    )


@pytest.mark.parametrize("key", ["epochs=4", "lr=1e-2", "warmup=0.5"])
def test_keys_that_phases_replace_are_refused_beside_them(key: str, folder: Path) -> None:
    message = refusal(write(folder, PHASES), f"train.{key}")
    assert f"`train.{key.partition('=')[0]}` has no effect beside `train.phases`" in message


def test_a_phase_that_is_not_there_is_told_with_what_to_do(folder: Path) -> None:
    file = write(folder, PHASES)
    phases = "train.phases=[{epochs: 1, lr: 1e-3}]"
    said = refusal(file, phases)
    assert "`train.phases.1.lr` is of an entry that its list does not have" in said
    assert "'~space.train.phases.1.lr'" in said
    load(file, [phases, "~space.train.phases.1.lr"])
    assert "command line: train.phases.3.epochs: it has no such place" in refusal(
        file, phases, "train.phases.3.epochs=1"
    )


def test_a_searched_rate_beside_phases_is_refused_with_the_key_that_counts(folder: Path) -> None:
    file = write(folder, PHASES.replace("train.phases.1.lr:", "train.lr:"))
    assert "Search `train.phases.0.lr` instead" in refusal(file)


def test_missing_weights_are_named_at_their_own_key(folder: Path) -> None:
    file = write(folder, GOOD.replace("family: unet_cbam", "family: sam\n  sam: {size: vit_b, prompt: class}"))
    assert ": model.sam.weights: " in refusal(file)
    assert ":10: model.sam.weights: " in refusal(file), "at the line of the family's options"


@pytest.mark.parametrize(
    ("library", "override", "extra"),
    [
        ("segment_anything", "model={family: sam}", "sam"),
        ("ultralytics", "model={family: yolo}", "yolo"),
        ("transformers", "model={family: mask2former}", "hf"),
        ("scipy", "model={family: oneformer}", "hf"),
        ("timm", "model={family: unet_cbam, unet_cbam: {backbone: resnet18, image_size: 64}}", "encoders"),
        ("segment_anything", "space.model.family={choices: [unet_cbam, sam]}", "sam"),
        ("segment_anything", "label={teacher: {family: sam}, prompt: {strategy: box}}", "sam"),
    ],
)
def test_an_extra_that_is_not_installed_is_named_before_anything_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, library: str, override: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    said = refusal(write(folder, GOOD), "+" * override.startswith(("label", "space")) + override)
    assert f"`{library}`" in said
    assert f"pip install 'segdist[{extra}]'" in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("storage='http://host/x'", "`storage` must be a folder or begin with s3://, but got http://host/x"),
        ("storage='ftp://host/x'", "`storage` must be a folder or begin with s3://"),
        ("+tracking.uri='plugin-evil://x'", "`tracking.uri` must be `embedded`, `sqlite:///FILE`"),
        ("+tracking.uri=mlruns", "`tracking.uri` must be `embedded`, `sqlite:///FILE`"),
        ("+train.epochs=1000000000", "less than or equal to 1000000"),
        ("+resources.workers=1000000000", "less than or equal to 10000"),
        ("search.trials=1000000000", "less than or equal to 1000000"),
        ("+train.batch_size=1000000000", "less than or equal to 4096"),
        ("space={train.epochs: {choices: [5, 1000000000]}}", "less than or equal to 1000000"),
    ],
)
def test_what_can_never_work_is_refused_by_check(folder: Path, override: str, said: str) -> None:
    assert said in refusal(write(folder, GOOD), override)


def test_a_library_that_refining_needs_is_named_before_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "pydensecrf" else ModuleSpec(name, None))
    file = write(folder, GOOD)
    needed = "`refine: crf` needs the library `pydensecrf`. Install it: pip install 'segdist[crf]'"
    assert f"evaluate.post.refine: {needed}" in refusal(file, "evaluate.post.refine=crf")
    assert load(file, ["evaluate.post.refine=guided_filter"])
    searched = write(folder, GOOD + "  evaluate.post.refine: [none, crf]\n")
    assert f"space.evaluate.post.refine: {needed}" in refusal(searched)
    monkeypatch.undo()
    monkeypatch.setattr(extras, "find_spec", lambda name: ModuleSpec(name, None))
    assert load(file, ["evaluate.post.refine=crf"])
