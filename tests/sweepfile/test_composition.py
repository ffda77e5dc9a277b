"""A sweep file reads and runs nothing that it must not, holds no secret, and is composed in bounded time and memory."""

import os
from pathlib import Path

import pytest

from segdist.converting.merge_spec import load_data
from segdist.core.errors import SpecError
from segdist.core.spec import Range
from segdist.sweepfile.composition import compose
from segdist.sweepfile.loading import load

GOOD = """\
name: demo
data:
  sources:
    - {format: synthetic, scene: roofs, count: 4}
model: {family: unet_cbam, unet_cbam: {image_size: 64}}
space:
  train.lr: {low: 1e-4, high: 1e-2, log: true}
  model.unet_cbam.width: [8, 16]
"""
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def write(folder: Path, text: str | bytes, name: str = "demo.yaml") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load(file, overrides)
    return str(caught.value)


# What may be read


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_every_unicode_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    spec = load(write(tmp_path, f"question: Wo ist Straße?\n{GOOD}".encode(encoding)))
    assert (spec.name, spec.question) == ("demo", "Wo ist Straße?")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"{GOOD}question: Straße\n".encode("cp1252"), 9, "text must be UTF-8, but byte"),
        (b"\x7fELF\x02\x01\x01\0\0\0", 1, "NUL"),
        (GOOD.encode() + b"question: \x80\x81\n", 9, "iconv -f WINDOWS-1252"),
        (GOOD + "train: &t {loss: *t}\n", 9, "must not lead back"),
        (GOOD + "question: " + "[" * 5_000 + "]" * 5_000, 9, "at most 64 deep"),
        (
            GOOD + "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
            1,
            "10,000",
        ),
        (GOOD + "seed: 1\nseed: 2\n", 10, "the key `seed` must stand once, but stands in line 9 too"),
        (GOOD + f"seed: {2**200}\n", 9, "must fit into 64 bits"),
        (GOOD + "seed: " + "9" * 5_000, 9, "at most 100 characters"),
        (GOOD + "train: {lr: .nan}\n", 9, "must be finite"),
        (GOOD + "train: {epochs: .inf}\n", 9, "must be finite"),
        (GOOD + 'question: "a\\0b"\n', 9, "control characters"),
        (GOOD + 'question: "a\\eb"\n', 9, "control characters"),
        (GOOD + f"question: {'x' * 20_000}\n", 9, "at most 10,000 characters"),
        (GOOD + "question: !!python/object/apply:os.system [id]\n", 9, "must be YAML"),
        (GOOD + "x: !!python/object/apply:pathlib.Path [a]\n", 9, "must be YAML"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_hostile_file_is_refused_with_its_line(tmp_path: Path, text: str | bytes, line: int, said: str) -> None:
    file = write(tmp_path, text)
    message = refusal(file)
    assert message.startswith(f"{file}:{line}: ")
    assert said in message
    with pytest.raises(SpecError):
        load_data(str(file))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just a text", "5", "# nothing\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    assert "must hold keys and values" in refusal(write(tmp_path, text))


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    assert "at most 1,048,576 bytes" in refusal(write(tmp_path, GOOD + "# " + "x" * (1 << 21)))


def test_folders_pipes_and_devices_are_no_sweep_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "folder.yaml", "zero.yaml"):
        assert "must be a file, but is a" in refusal(tmp_path / name)
        with pytest.raises(SpecError, match="must be a file"):
            load_data(str(tmp_path / name))


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD, "my sweep @ home (2).yml")).name == "demo"


# What it may be put together from


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ("[../other]", "but name `../other`. Copy it there"),
        ("[search: ../../other]", "Copy it there"),
        ("[/tmp/other]", ""),
        ("[outside, _self_]", "Copy it there"),
        ("[hydra/job_logging: disabled]", "Hydra's own settings"),
        ("[override hydra/launcher: basic]", "Hydra's own settings"),
        ("[/hydra/help/default, _self_]", "Hydra's own settings"),
        ("[search: '${oc.env:HOME}']", "without `${...}`"),
        ("[demo, _self_]", "not lead back"),
        ("[search: around, _self_]", "not lead back"),
        ("[nowhere, _self_]", "nowhere"),
        ("few", "must be a list"),
        ("[search: pipe, _self_]", "must be a file"),
        ("[search: bomb, _self_]", "10,000"),
        ("[pkg://os]", ""),
    ],
)
def test_only_files_of_its_own_folder_belong_to_it(tmp_path: Path, defaults: str, said: str) -> None:
    folder = tmp_path / "sweeps"
    write(tmp_path, "question: stolen\n", "other.yaml")
    file = write(folder, f"defaults: {defaults}\n{GOOD}")
    assert "put `_self_` last" in refusal(write(folder, f"defaults: [search: few]\n{GOOD}", "without.yaml"))
    (folder / "outside.yaml").symlink_to(tmp_path / "other.yaml")
    write(folder / "search", "defaults: [/search: around]\n", "around.yaml")
    write(
        folder / "search",
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
        "bomb.yaml",
    )
    os.mkfifo(folder / "search" / "pipe.yaml")
    assert said in refusal(file)


def test_a_part_that_is_not_there_is_named_by_its_file_with_the_fix(tmp_path: Path) -> None:
    file = write(tmp_path, f"defaults: [search: few, _self_]\n{GOOD}")
    said = refusal(file)
    assert f"`search: few`, but there is no file {tmp_path / 'search' / 'few.yaml'}. Copy it there too" in said
    assert "hydra" not in said.lower()
    write(tmp_path / "search", "trials: 2\n", "fewer.yaml")
    assert "few.yaml. Did you mean `fewer`?" in refusal(file)
    assert "/none.yaml. Known: fewer." in refusal(file, "search=none")


def test_the_sweep_file_to_copy_needs_no_other_file(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "sweeps" / "photos.yaml"
    assert load(write(tmp_path, shipped.read_bytes(), "cracks.yaml")).name == "photos"


def test_defaults_that_double_at_every_level_are_refused(tmp_path: Path) -> None:
    for level in range(30):
        write(tmp_path, f"defaults: [part{level + 1}@a, part{level + 1}@b]\n", f"part{level}.yaml")
    write(tmp_path, "x: 1\n", "part30.yaml")
    assert "must name at most 100 files and not lead back" in refusal(
        write(tmp_path, f"defaults: [part0, _self_]\n{GOOD}")
    )


@pytest.mark.parametrize("choice", ["search=../../other", "search=../other", "+search=../other"])
def test_a_choice_on_the_command_line_stays_in_the_folder(tmp_path: Path, choice: str) -> None:
    folder = tmp_path / "sweeps"
    write(tmp_path, "trials: 3\n", "other.yaml")
    file = write(folder, f"defaults: [search: few, _self_]\n{GOOD}")
    write(folder / "search", "trials: 2\n", "few.yaml")
    assert load(file).search.trials == 2
    assert refusal(file, choice)


@pytest.mark.parametrize(
    "override",
    ["hydra.searchpath=[pkg://os]", "+hydra.run.dir=/tmp/x", "hydra/launcher=basic", "~hydra", "++hydra={a: 1}"],
)
def test_hydra_itself_cannot_be_changed(tmp_path: Path, override: str) -> None:
    assert "Hydra's own setting" in refusal(write(tmp_path, GOOD), override)
    assert "`hydra` has no place" in refusal(write(tmp_path, f"hydra: {{searchpath: [file:///etc]}}\n{GOOD}"))


def test_nothing_is_imported_or_called_that_a_file_names(tmp_path: Path) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    file = write(tmp_path, GOOD + "_target_: stranger.run\n")
    assert "unknown key `_target_`" in refusal(file)
    assert not (tmp_path / "ran").exists()


# ${...}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "${oc.env:WHERE}",
            "WHERE is not declared. If its value may be stored and shown, write `environment: [WHERE]`",
        ),
        ("${oc.env:WHERE,x}", "is not declared"),
        ("a ${oc.env: WHERE }", "is not declared"),
        ("${oc.env:NOWHERE,${oc.env:WHERE}}", "is not declared"),
        ("${oc.env:HF_TOKEN}", "is a secret by its name"),
        ("${oc.decode:${oc.env:HOME}}", "only `${key}` and `${oc.env:NAME}`"),
        ("${oc.create:{a: 1}}", "only"),
        ("${hydra:runtime.cwd}", "only"),
        ("${now:%Y}", "only"),
        ("${oc.select:name}", "only"),
        ("${oc.dict.values:data}", "only"),
        ("${${name}:x}", "only"),
        ("${oc.env:${name}}", "only"),
        ("${question}", "must not lead back"),
        ("${.question}", "must not lead back"),
        ("${name", "${"),
        ("${nowhere}", "nowhere"),
        ("${name}" * 1_000, "at most 1,000 characters"),
    ],
    ids=lambda value: value[:30],
)
def test_only_keys_and_declared_variables_are_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv("WHERE", "confidential")
    monkeypatch.setenv("HF_TOKEN", "confidential")
    file = write(tmp_path, f"question: '{value}'\nenvironment: [HF_TOKEN]\n{GOOD}")
    message = refusal(file)
    assert said in message
    assert "confidential" not in message
    assert said in refusal(write(tmp_path, f"environment: [HF_TOKEN]\n{GOOD}"), f"question='{value}'") or "=" in value
    with pytest.raises(SpecError):
        load_data(str(write(tmp_path, f"question: '{value}'\n{GOOD}")))


def test_declared_variables_and_keys_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/data")
    monkeypatch.setenv("HOME", "/home/me")
    text = GOOD.replace("scene: roofs", "scene: roofs, text: '${data_root}/x ${oc.env:NOT_SET,${name}}'")
    file = write(tmp_path, f"environment: [WHERE, NOT_SET]\ndata_root: ${{oc.env:WHERE}}/y\n{text}")
    spec = load(file)
    assert (spec.data_root, spec.data.sources[0].text) == ("/data/y", "/data/y/x demo")
    assert load(file, ["question='${oc.env:HOME} ${search.trials}'", "search.trials=3"]).question == "/home/me 3"
    assert load_data(str(file)).sources[0].text == "/data/y/x demo"


def test_declaring_a_variable_does_not_change_what_a_search_is(tmp_path: Path) -> None:
    assert (
        load(write(tmp_path, GOOD)).sweep_fingerprint
        == load(write(tmp_path, f"environment: [WHERE]\n{GOOD}")).sweep_fingerprint
    )


@pytest.mark.parametrize(
    "bomb",
    [
        "a0: xxxxxxxxxx\n" + "".join(f"a{n}: '${{a{n - 1}}}${{a{n - 1}}}'\n" for n in range(1, 40)),
        "a0: {x: y}\n" + "".join(f"a{n}: {{x: '${{a{n - 1}}}', y: '${{a{n - 1}}}'}}\n" for n in range(1, 40)),
        "".join(f"a{n}: '${{a{n + 1}}}'\n" for n in range(300)) + "a300: x\n",
        "a0: x\n" + "".join(f"a{n}: '${{a{n - 1}}}'\n" for n in range(1, 150)),
        "a: '${b}'\nb: '${c.d}'\nc: {d: '${a}'}\n",
    ],
    ids=["text", "mapping", "chain", "chain told backwards", "circle"],
)
def test_references_that_grow_without_bound_are_refused(tmp_path: Path, bomb: str) -> None:
    assert "`${...}`" in refusal(write(tmp_path, GOOD + bomb))


# Secrets


@pytest.mark.parametrize(
    ("line", "secrets", "said"),
    [
        (f"storage: s3://{KEY}:{SECRET}@bucket/x", [KEY, SECRET], "AWS_PROFILE"),
        ("tracking: {uri: 'http://me:pa55word@host:5000'}", ["pa55word"], "MLFLOW_TRACKING_PASSWORD"),
        ("tracking: {uri: 'postgresql://me:pa55word@db/mlflow'}", ["pa55word"], "PGPASSWORD"),
        ("train: {init_from: 'https://host/w?X-Amz-Signature=0f1e2d3c'}", ["0f1e2d3c"], "download"),
        ("question: token hf_aB3dE5gH7jK9mN1pQ3sT5vW7yZ", ["hf_aB3dE"], "a secret must not stand"),
        (f"question: {KEY}", [KEY], "a secret must not stand"),
        ("question: correct-horse", ["correct-horse"], "a secret must not stand"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, secrets: list[str], said: str
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "correct-horse")
    file = write(tmp_path, f"{GOOD}{line}\n")
    message = refusal(file)
    assert message.startswith(f"{file}:9: ")
    assert said in message
    assert not [secret for secret in secrets if secret in message]


def test_a_secret_on_the_command_line_is_refused_and_not_repeated(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, GOOD), f"storage='s3://{KEY}:{SECRET}@bucket'")
    assert message.startswith("command line: storage: a URI must not hold credentials")
    assert SECRET not in message


# key=value


def space(tmp_path: Path, *overrides: str) -> dict[str, Range]:
    return load(write(tmp_path, GOOD), overrides).space


def test_a_mapping_on_the_command_line_replaces_the_one_that_is_there(tmp_path: Path) -> None:
    assert space(tmp_path, "space={train.batch_size: [2, 4]}") == {"train.batch_size": Range(choices=(2, 4))}
    assert space(tmp_path, "space={train: {batch_size: [2, 4]}}") == {"train.batch_size": Range(choices=(2, 4))}
    assert space(tmp_path, "space={}") == {}
    assert space(tmp_path, "~space") == {}


def test_one_key_of_the_space_is_added_changed_or_removed(tmp_path: Path) -> None:
    before = space(tmp_path)
    assert list(before) == ["train.lr", "model.unet_cbam.width"]
    rest = {"model.unet_cbam.width": before["model.unet_cbam.width"]}
    assert space(tmp_path, "space.train.lr={low: 1, high: 2}") == {"train.lr": Range(low=1, high=2), **rest}
    assert space(tmp_path, "space.train.lr=[1, 2]") == {"train.lr": Range(choices=(1, 2)), **rest}
    assert space(tmp_path, "space.train.lr.high=0.1") == {"train.lr": Range(low=1e-4, high=0.1, log=True), **rest}
    assert space(tmp_path, "++space.train.lr={high: 0.1}") == space(tmp_path, "space.train.lr.high=0.1")
    assert space(tmp_path, "~space.train.lr") == rest
    assert space(tmp_path, "~space.train") == rest
    assert space(tmp_path, "~space.train.lr.log") == {"train.lr": Range(low=1e-4, high=1e-2), **rest}
    assert space(tmp_path, "++space={seed: [1, 2]}") == {**before, "seed": Range(choices=(1, 2))}
    assert space(tmp_path, "space.seed=[1, 2]") == {**before, "seed": Range(choices=(1, 2))}
    assert space(tmp_path, "space={seed: [1, 2]}", "space.train.lr=[1, 2]").keys() == {"seed", "train.lr"}


def test_a_key_that_is_not_searched_cannot_be_removed(tmp_path: Path) -> None:
    assert "Did you mean `train.lr`?" in refusal(write(tmp_path, GOOD), "~space.train.lrr")
    assert "there is no such key" in refusal(write(tmp_path, GOOD), "~train.lr")


def test_a_folder_beside_the_file_hides_no_key_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "storage" / "sweeps").mkdir(parents=True)
    file = write(tmp_path, GOOD + "storage: here\n")
    assert compose(file, ["storage=there"])["storage"] == "there"


def test_every_other_mapping_is_replaced_too(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + "train: {loss: {dice: 1.0, focal: 2.0}, augment_classes: {a: light, b: strong}}\n")
    train = compose(file, ["train.loss={dice: 3.0}", "train.augment_classes={c: none}", "~data.sources.0.count"])
    assert train["train"] == {"loss": {"dice": 3.0}, "augment_classes": {"c": "none"}}
    assert train["data"]["sources"] == [{"format": "synthetic", "scene": "roofs"}]
    assert compose(file, ["++train.loss={dice: 3.0}"])["train"]["loss"] == {"dice": 3.0, "focal": 2.0}
    assert compose(file, ["+train.loss={tversky: 1}"])["train"]["loss"] == {"dice": 1.0, "focal": 2.0, "tversky": 1}
    assert compose(file, ["data.sources.0.count=9"])["data"]["sources"][0]["count"] == 9


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "must read `key=value`"),
        ("seed=1,2", "A list is written `seed=[a,b]`"),
        ("seed=choice(1,2)", "A list is written"),
        ("seed=range(0,3)", "A list is written"),
        ("question=a: b {", "cannot be read"),
        ("question=" + "[" * 3_000, "cannot be read"),
        ("nowhere/x=y", "there is no folder"),
        ("+name=other", "the key is there already"),
        ("=1", "names no key"),
        ("name.x=1", "name"),
        ("data.sources.7.count=1", ""),
        (f"seed={2**70}", "64 bits"),
        ("train.lr=inf", "must be finite"),
    ],
    ids=lambda value: value[:30],
)
def test_an_override_that_cannot_be_is_refused(tmp_path: Path, override: str, said: str) -> None:
    assert said in refusal(write(tmp_path, GOOD), override)


@pytest.mark.parametrize(
    "override",
    [
        "name=''",
        "name=../../x",
        "name=a/b",
        "name='a b'",
        'name="a\n"',
        f"name={'a' * 101}",
        "storage=''",
        "storage='  '",
        "tracking.uri=''",
        "data_root=''",
        "data.classes=['']",
        "data.classes=[' ']",
        'data.classes=["a\nb"]',
        f"data.classes=[{'a' * 1001}]",
        "data.sources.0.class_map={a: ''}",
        "data.classes=[null]",
    ],
    ids=lambda value: value[:30],
)
def test_a_name_that_names_nothing_or_another_place_is_refused(tmp_path: Path, override: str) -> None:
    assert refusal(write(tmp_path, GOOD), override).startswith("command line: ")


def test_a_metric_that_decides_a_search_is_measured_after_each_epoch_whichever_way_is_better(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    said = refusal(file, "search.metric=val/hausdorff_95")
    assert "is not measured after each epoch. Set evaluate.each_epoch: [iou, dice, hausdorff_95]" in said
    assert "there is no metric `val/hausdorf`. Did you mean `val/hausdorff_95`?" in refusal(
        file, "search.metric=val/hausdorf"
    )
    spec = load(file, ["search.metric=val/hausdorff_95", "evaluate.each_epoch=[iou, dice, hausdorff_95]"])
    assert spec.search.metric == "val/hausdorff_95"
