"""What goes along with a job, and what does not."""

import shutil
from pathlib import Path

import pytest

from segdist.commands import parcel
from segdist.commands.parcel import parcel_of
from segdist.core.errors import DataError, SpecError
from segdist.sweepfile.loading import load

SWEEP = """\
name: {name}
storage: s3://bucket/segdist
data: {{sources: [{source}]}}
model: {{family: unet_cbam}}
"""
DRAWN = "{format: synthetic, scene: roofs}"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sweep, and much beside it that no job needs."""
    folder = tmp_path / "desk"
    for name in ("sweeps/roofs.yaml", ".git/config", "other/huge.bin", "exports/a.png", ".env"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SWEEP.format(name="roofs", source=DRAWN) if name.endswith("yaml") else "x")
    monkeypatch.chdir(folder)
    return folder


def write(name: str, source: str = DRAWN, *, also: str = "") -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(SWEEP.format(name=Path(name).stem, source=source) + also)


def test_a_sweep_file_goes_alone_and_runs_there_as_here(desk: Path, tmp_path: Path) -> None:
    found = parcel_of([("sweeps/roofs.yaml", ["search.trials=2"])])
    assert found.words == ("sweeps/roofs.yaml", "search.trials=2")
    assert found.names == ("roofs",)
    found.write(tmp_path / "there")
    assert [file.name for file in (tmp_path / "there").rglob("*") if file.is_file()] == ["roofs.yaml"]


def test_defaults_go_along_those_of_defaults_and_those_chosen_on_the_command_line_too(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("sweeps/a.yaml", also="defaults: [search: few, _self_]\n")
    for name, text in {
        "few": "defaults: [base, _self_]\ntrials: 2\n",
        "base": "seed: 7\n",
        "many": "trials: 9\n",
        "not": "",
    }.items():
        Path("sweeps/search").mkdir(exist_ok=True)
        Path(f"sweeps/search/{name}.yaml").write_text(text)
    found = parcel_of([("sweeps/a.yaml", [])])
    assert set(found.files) == {"sweeps/a.yaml", "sweeps/search/few.yaml", "sweeps/search/base.yaml"}
    chosen = parcel_of([("sweeps/a.yaml", ["search=many"])])
    assert "sweeps/search/many.yaml" in chosen.files
    assert "sweeps/search/not.yaml" not in chosen.files
    chosen.write(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert load(chosen.words[0], chosen.words[1:]).search.trials == 9


def test_each_of_several_sweeps_keeps_its_own_overrides(desk: Path) -> None:
    write("sweeps/b.yaml", also="seed: 3\n")
    found = parcel_of([("sweeps/roofs.yaml", ["seed=1"]), ("sweeps/b.yaml", ["~seed"])])
    assert found.words == ("sweeps/roofs.yaml", "sweeps/b.yaml", "sweeps/roofs.yaml:seed=1", "sweeps/b.yaml:~seed")


def test_a_file_from_elsewhere_goes_with_its_own_folder_for_what_it_names(desk: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere" / "a.yaml"
    write(str(outside), also="defaults: [search: few, _self_]\n")
    (outside.parent / "search").mkdir()
    (outside.parent / "search" / "few.yaml").write_text("trials: 2\n")
    found = parcel_of([(str(outside), [])])
    assert found.words == ("sweep_files/0/a.yaml",)
    assert set(found.files) == {"sweep_files/0/a.yaml", "sweep_files/0/search/few.yaml"}


def test_small_data_and_weights_that_are_named_by_relative_paths_go_along(desk: Path) -> None:
    Path("exports/hidden/.cache").mkdir(parents=True)
    Path("exports/hidden/.cache/x").write_text("x")
    Path("weights").mkdir()
    Path("weights/net.safetensors").write_text("x")
    write("a.yaml", "{format: images, path: exports}", also="train: {init_from: weights/net.safetensors}\n")
    assert set(parcel_of([("a.yaml", [])]).files) == {"a.yaml", "exports/a.png", "weights/net.safetensors"}


def test_annotations_bring_their_images_and_an_archive_only_itself(desk: Path) -> None:
    Path("exports/_annotations.coco.json").write_text("{}")
    Path("exports/all.zip").write_text("x")
    write("a.yaml", "{format: coco, path: exports/_annotations.coco.json}")
    assert "exports/a.png" in parcel_of([("a.yaml", [])]).files
    write("b.yaml", "{format: images, path: exports/all.zip}")
    assert set(parcel_of([("b.yaml", [])]).files) == {"b.yaml", "exports/all.zip"}


@pytest.mark.parametrize("path", ["s3://bucket/exports", "/data/exports", "not_here", "../outside", "~/exports"])
def test_what_is_named_by_another_place_stays_where_it_is(desk: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.png").write_text("x")
    write("a.yaml", f"{{format: images, path: {path}}}")
    assert set(parcel_of([("a.yaml", [])]).files) == {"a.yaml"}


def test_a_word_that_happens_to_be_a_folder_brings_nothing(desk: Path) -> None:
    Path("unet_cbam").mkdir()
    Path("unet_cbam/x").write_text("x")
    assert set(parcel_of([("sweeps/roofs.yaml", [])]).files) == {"sweeps/roofs.yaml"}


def test_a_link_out_of_the_folder_brings_nothing(desk: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    Path("exports/link.png").symlink_to(tmp_path / "secret")
    write("a.yaml", "{format: images, path: exports}")
    assert "exports/link.png" not in parcel_of([("a.yaml", [])]).files


def test_too_much_is_refused_with_the_folder_and_the_fix(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "MOST_BYTES", 150_000)
    Path("exports/b.png").write_bytes(b"x" * 200_000)
    write("a.yaml", "{format: images, path: exports}")
    with pytest.raises(DataError, match=r"At most 0\.1 MB .*0\.2 MB of them in exports\. .*s3://"):
        parcel_of([("a.yaml", [])])


def test_a_storage_that_ends_with_the_job_is_refused(desk: Path) -> None:
    with pytest.raises(SpecError, match="storage must be s3://"):
        parcel_of([("sweeps/roofs.yaml", ["storage=out"])])
    parcel_of([("sweeps/roofs.yaml", ["storage=/mnt/shared"])])


def test_declared_variables_go_along_and_no_others(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOFS_ROOT", "/data/roofs")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("NOT_SET", raising=False)
    write("a.yaml", "{format: images, path: '${oc.env:ROOFS_ROOT}'}", also="environment: [ROOFS_ROOT, HOME, NOT_SET]\n")
    assert parcel_of([("a.yaml", [])]).variables == {"ROOFS_ROOT": "/data/roofs"}


def test_size_and_largest_files_are_said(desk: Path) -> None:
    Path("exports/b.png").write_bytes(b"x" * 2_000_000)
    write("a.yaml", "{format: images, path: exports}")
    assert str(parcel_of([("a.yaml", [])])).startswith("3 files, 2.0 MB; the largest: exports/b.png (2.0 MB), a.yaml (")


def test_every_sweep_of_the_repository_can_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree("sweeps", tmp_path / "sweeps")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGDIST_STORAGE", "s3://bucket/segdist")
    monkeypatch.setenv("SEGDIST_DOWNLOAD_WEIGHTS", "1")
    found = parcel_of([("sweeps/quickstart.yaml", []), ("sweeps/compare_families.yaml", [])])
    assert {"sweeps/quickstart.yaml", "sweeps/compare_families.yaml"} <= set(found.files)
    assert str(found)
