"""What a model may be called: one rule for every command that takes one."""

import ast
import os
from pathlib import Path

import pytest

from segdist.commands import diff, export, model
from segdist.core.errors import DataError
from segdist.exporting.card import Origin
from segdist.tracking.tracker import Tracker
from tests.engine.shipped import model_folder

NAMES = ("demo#3", "demo@champion", "demo@2", "0123456789abcdef0123456789abcdef")
TAKE_A_MODEL = {
    "commands/diff.py", "commands/evaluate.py", "commands/export.py", "commands/promote.py", "pipeline/label.py",
    "pipeline/predict.py", "pipeline/serve.py",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model") / "unet", "unet_cbam")


@pytest.mark.parametrize("spelt", ["{folder}", "{folder}/", "file://{folder}", "{relative}", "~/unet"])
def test_a_folder_is_a_folder_for_every_command_however_it_is_written(
    folder: Path, spelt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    name = spelt.format(folder=folder, relative=os.path.relpath(folder))
    assert Path(model.place_of(name)).samefile(folder)
    with model.model_folder(name, "/nowhere", "embedded") as (found, trusted):
        assert (found / "model.json").read_bytes() == (folder / "model.json").read_bytes()
        assert not trusted
    assert model.load_model(name).classes
    assert export.origin_of(name, "/nowhere", "embedded") == Origin()
    with pytest.raises(DataError, match="is a folder, which keeps no predictions"):
        diff.diff(name, name, storage="/nowhere", tracking="embedded")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_looked_up_where_the_sweep_is_recorded(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    class Recorded(Tracker):
        def __init__(self) -> None:
            pass

        def run_of(self, model: str) -> str:
            asked.append(("run", model))
            return f"run of {model}"

        def model_files(self, model: str, folder: Path) -> Path:
            asked.append(("version", model))
            return there

        def model(self, run_id: str, folder: Path) -> Path:
            asked.append(("model", run_id))
            return there

    there = folder
    monkeypatch.setattr(Tracker, "at", lambda storage, tracking: Recorded())
    assert model.place_of(name) == ""
    with model.model_folder(name, "/nowhere", "embedded") as (found, trusted):
        assert (found, trusted) == (folder, True)
    assert asked == ([("version", name)] if "@" in name else [("run", name), ("model", f"run of {name}")])


def test_every_command_that_takes_a_model_asks_the_one_place_that_knows() -> None:
    asking, guessing = set(), []
    for file in sorted(Path("segdist").glob("*/*.py")):
        own = f"{file.parent.name}/{file.name}"
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "segdist.commands.model":
                asking.add(own)
            if isinstance(node, ast.Call) and ast.unparse(node) in ("Path(model).is_dir()", "Path(model).exists()"):
                guessing.append(own)
    assert asking >= TAKE_A_MODEL
    assert not guessing
