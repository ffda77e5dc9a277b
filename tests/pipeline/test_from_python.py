"""`segdist.run` and `segdist.compare`, and the notebook that begins with them, as a program and as Jupyter run them."""

import ast
import copy
import json
import math
import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import segdist
from segdist.core import storage
from segdist.core.errors import BackendError, SpecError
from segdist.pipeline.ingest import ingest
from segdist.pipeline.run import DONE, _asked, _Done, _fingerprint, _folder
from segdist.pipeline.sweep import _stopping_gracefully
from segdist.sweepfile.loading import load
from segdist.tracking import Tracker
from segdist.tracking.names import BASELINE
from tests.engine.shipped import model_folder

NOTEBOOK = Path("docs/first_steps.ipynb").absolute()
CELLS = ["".join(c["source"]) for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]


@pytest.fixture
def desk(empty_storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a storage of its own."""
    monkeypatch.setenv("SEGDIST_STORAGE", str(shutil.copytree(empty_storage, tmp_path / "storage")))
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(cell: str, names: dict[str, Any]) -> Any:
    """What a notebook shows of a cell: the value of its last line, where that is an expression without `;`."""
    *front, last = ast.parse(cell).body
    if isinstance(last, ast.Expr) and not cell.endswith(";"):
        exec(compile(ast.Module(front, []), "cell", "exec"), names)
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    exec(compile(cell, "cell", "exec"), names)
    return None


def record_as_done(file: Path, folder: Path) -> str:
    """A sweep as its driver would leave it, with two trials of which the second is the winner."""
    spec = load(file)
    tracker, fingerprint = Tracker.for_sweep(spec), _fingerprint(spec, "sweep")
    parent = tracker.start_sweep(
        spec.name, fingerprint, spec_text=spec.model_dump_json(), spec_file=str(file),
        tags={"segdist.kind": "sweep", "segdist.question": spec.question}, params={"search.trials": 2},
        dataset=ingest(spec).manifest,
    )  # fmt: skip
    for number, (lr, score) in enumerate([(3e-3, 0.5), (5e-3, 0.625)]):
        run = tracker.start_trial(
            parent, f"{number}", number=number, params={"train.lr": lr}, tags={BASELINE: not number}
        )
        tracker.log_metrics(run, {"val/iou": score, "val/dice": score, "seconds": 2}, step=1)
        tracker.end(run)
    tracker.log_files(run, model_folder(folder / "model", "unet_cbam"), "model")
    tracker.register_champion(spec.name, run)
    tracker.end(parent)
    storage.write_json(
        storage.join(_folder(spec, fingerprint), DONE), asdict(_Done(parent, _asked(spec), "first_steps"))
    )
    return parent


def test_every_cell_of_the_notebook_runs_on_a_sweep_that_is_done(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    assert shown(CELLS[0], names) is None
    parent = record_as_done(desk / "first_steps.yaml", desk)
    values = [shown(cell, names) for cell in CELLS[1:]]
    assert "40 images; classes roof" in capsys.readouterr().out
    assert parent in values, "`run` did nothing twice"
    table = segdist.compare("first_steps")
    assert any(table.equals(value) for value in values if isinstance(value, type(table)))
    pictures = [value for value in values if isinstance(value, Image.Image)]
    assert [picture.size for picture in pictures] == [(256, 256)]
    assert len(names["predictions"]) == len(names["test"]) > 0
    assert 0 <= names["scores"]["metrics"]["iou"] <= 1

    assert list(table.columns) == [
        "trial", "status", "val/iou", "gain", "val/dice", "epochs", "seconds", "train.lr", "run_id"
    ]  # fmt: skip
    assert table["trial"].tolist() == [1, 0], "best first"
    assert table["val/iou"].tolist() == [0.625, 0.5]
    assert table["gain"].tolist()[0] == pytest.approx(0.125)
    assert math.isnan(table["gain"].tolist()[1]), "of the untuned trial itself"
    assert table["train.lr"].tolist() == [5e-3, 3e-3]
    assert segdist.load_model("first_steps#1").classes == segdist.load_model("first_steps@champion").classes
    with pytest.raises(BackendError, match="first_step"):
        segdist.compare("first_step")


def test_the_notebook_is_kept_without_outputs_and_with_no_path_of_a_machine() -> None:
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert "/home/" not in NOTEBOOK.read_text("utf-8")
    assert "/tmp" not in NOTEBOOK.read_text("utf-8")


def test_a_wrong_value_of_a_key_is_named_before_anything_starts(sweep: Path) -> None:
    with pytest.raises(SpecError, match=r"search\.trials"):
        segdist.run(sweep, **{"search.trials": "many"})
    with pytest.raises(SpecError, match="Did you mean `trials`"):
        segdist.run(sweep, **{"search.trails": 3})
    with pytest.raises(SpecError, match=r"missing\.yaml"):
        segdist.run("missing.yaml")
    assert not (sweep.parent / "storage").exists()


def test_a_search_may_run_in_another_thread_than_the_main_one() -> None:
    entered: list[bool] = []

    def work() -> None:
        with _stopping_gracefully():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [True]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs_in_jupyter_and_its_cells_show_what_happens(desk: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    again = next(cell for cell in content.cells if "segdist.run" in cell.source and cell.cell_type == "code")
    content.cells.append(copy.deepcopy(again))
    content.cells[-1].id = "again"
    folder = {"metadata": {"path": str(desk)}}
    NotebookClient(content, timeout=600, kernel_name="python3", resources=folder).execute()
    said = {cell.id: "".join(o.get("text", "") for o in cell.outputs) for cell in content.cells if "outputs" in cell}
    assert "data      train" in said[again.id], "nothing clears what was said before"
    assert "finished" in said[again.id]
    assert "\x1b" not in said[again.id]
    assert "nothing to do" in said["again"]
    warned = [o["text"] for cell in content.cells for o in cell.get("outputs", ()) if o.get("name") == "stderr"]
    ours = [text for text in warned if "ipywidgets" not in text]  # tqdm says so in every notebook that lacks them
    assert not ours, "the logs of libraries are quiet"
    kinds = [kind for cell in content.cells for o in cell.get("outputs", ()) for kind in o.get("data", ())]
    assert "image/png" in kinds
