"""The quick ways to read runs give what MLflow's client gives."""

import math
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from werkzeug.serving import make_server

from segdist.core.errors import BackendError
from segdist.core.spec import SweepSpec
from segdist.tracking import Tracker, names
from segdist.tracking.rest import RestRuns
from segdist.tracking.runs import ClientRuns, Run, Runs
from segdist.tracking.tables import UnreadableError, opened
from tests.tracking.conftest import log_epochs, start_sweep, start_trial


@pytest.fixture
def parent(tracker: Tracker, spec: SweepSpec, tmp_path: Path) -> str:
    """A sweep with most of what MLflow can hold, beside another one."""
    start_sweep(tracker, spec.model_copy(update={"seed": 1}))
    parent = start_sweep(tracker, spec)
    for number in range(3):
        run = start_trial(
            tracker, parent, number, params={"train.lr": 1e-3 * (number + 1), "name": "größte ✓", "": None}
        )
        log_epochs(tracker, run, {"val/iou": 0.1 * number, "val/iou/größte Fläche": 0.5}, {"val/iou": 0.3})
    tracker.end(run, "KILLED", reason="")
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    (tmp_path / "pictures" / "a b.txt").write_text("ä")
    (tmp_path / "pictures" / "more" / "c.json").write_text('{"x": 1}')
    tracker.log_files(run, tmp_path / "pictures", "pictures")
    tracker.discard(start_trial(tracker, parent, 3))
    client, experiment = MlflowClient(tracker.uri), "1"
    for number in range(4, 7):  # begun in one moment
        tags = {names.PARENT: parent, names.TRIAL: f"key-{number}", names.NUMBER: str(number), "empty": ""}
        twin = client.create_run(experiment, start_time=1_700_000_000_000, tags=tags).info.run_id
        odd = {"nan": math.nan, "high": math.inf, "low": -math.inf, "zero": 0.0, "tiny": 5e-324}
        points = [Metric(name, value, 1_700_000_000_000, 1) for name, value in odd.items()]
        client.log_batch(twin, points, [Param("long", "x" * 6000)], [RunTag("long", "y" * 8000)])
    return parent


@pytest.fixture
def server(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow's server in a thread."""
    from mlflow import server
    from mlflow.server import handlers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Starlette says that MLflow uses it in an old way
        import_module("mlflow.server.fastapi_app")  # imported by the first request otherwise
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", tracker.uri)  # as `mlflow server` tells its workers
    monkeypatch.setattr(handlers, "_tracking_store", None)
    served = make_server("127.0.0.1", 0, server.app, threaded=True)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.port}"
    served.shutdown()
    thread.join()
    served.server_close()


def told(run: Run) -> dict[str, object]:
    """All that is known of a run, in a form in which NaN equals NaN."""
    content = asdict(run)
    return content | {"metrics": {name: repr(value) for name, value in run.metrics.items()}}


def answers(runs: Runs, parent: str) -> dict[str, object]:
    """What everything that is asked is answered with."""
    children = runs.tagged("1", names.PARENT, parent)
    return {
        "experiment": [runs.experiment("cracks"), runs.experiment("walls")],
        "experiments": sorted(runs.active_experiments()),
        "parent": told(runs.run(parent)),
        "sweeps": [told(run) for run in runs.tagged("1", names.FINGERPRINT)],
        "running": [told(run) for run in runs.tagged("1", names.PARENT, parent, status="RUNNING")],
        "elsewhere": runs.tagged("0", names.PARENT, parent),
        "children": [told(run) for run in children],
        "history": [
            repr(runs.history(run.run_id, metric)) for run in children for metric in ("val/iou", "nan", "none")
        ],
    }


def test_tables_say_what_the_client_says(tracker: Tracker, parent: str, storage: Path) -> None:
    expected = answers(ClientRuns(MlflowClient(tracker.uri)), parent)
    assert len(expected["children"]) == 6  # type: ignore[arg-type]  # a list
    with opened(storage / "mlflow.db") as runs:
        assert answers(runs, parent) == expected


def test_a_server_s_plain_answers_say_what_the_client_says(server: str, parent: str) -> None:
    client = MlflowClient(server)
    assert answers(RestRuns(client, server), parent) == answers(ClientRuns(client), parent)


def test_a_server_s_answers_are_read_to_the_last_page(
    server: str, parent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segdist.tracking.rest.PAGE", 4)
    assert len(RestRuns(MlflowClient(server), server).tagged("1", names.PARENT, parent)) == 6


def test_a_server_s_refusal_is_told_in_its_words(server: str, parent: str) -> None:
    with pytest.raises(BackendError, match=r"refused: .*Run with id=0+ not found"):
        Tracker(server).trials("0" * 32)
    with pytest.raises(BackendError, match=r"refused: .*Invalid experiment"):
        Tracker(server)._connection.read(lambda runs: runs.tagged("no number", names.PARENT, parent))


@pytest.mark.parametrize("path", ["pictures", "pictures/a b.txt", "pictures/none", "none"])
def test_files_are_copied_as_the_client_copies_them(
    tracker: Tracker, parent: str, storage: Path, tmp_path: Path, path: str
) -> None:
    run_id = tracker.trials(parent)[0].run_id
    found = []
    with opened(storage / "mlflow.db") as runs:
        for name, source in (("client", ClientRuns(MlflowClient(tracker.uri))), ("tables", runs)):
            place = source.fetch(run_id, path, tmp_path / name)
            files = (tmp_path / name).rglob("*") if place else ()
            contents = {str(f.relative_to(tmp_path / name)): f.read_bytes() for f in files if f.is_file()}
            found.append((place and place.relative_to(tmp_path / name), contents))
    assert found[0] == found[1]


def test_a_leaderboard_is_read_without_importing_mlflow(parent: str, storage: Path) -> None:
    """So the tables of the MLflow that is installed are known; where they are not, it is slower."""
    code = (
        "import sys\nfrom segdist.commands.compare import board_of, pages_of\n"
        "board = board_of('cracks', storage=sys.argv[1])\npages_of(board, storage=sys.argv[1])\n"
        "print(board.sweep.run_id, 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(storage)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [parent, "False"]


def test_tables_of_another_form_are_left_to_the_client(
    tracker: Tracker, parent: str, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tracker.trials(parent)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
        with pytest.raises(UnreadableError, match="MLflow's to say"), opened(storage / "mlflow.db"):
            pass
    with sqlite3.connect(storage / "mlflow.db") as tables:
        tables.execute("ALTER TABLE latest_metrics ADD COLUMN unit TEXT")
    with pytest.raises(UnreadableError, match="`latest_metrics` has other columns"), opened(storage / "mlflow.db"):
        pass
    assert [(t.run_id, t.params, t.metrics) for t in tracker.trials(parent)] == [
        (t.run_id, t.params, t.metrics) for t in before
    ]


def test_what_is_not_there_is_told_in_the_words_of_mlflow(tracker: Tracker, parent: str) -> None:
    with pytest.raises(BackendError, match=r"refused: Run with id=0+ not found"):
        tracker.trials("0" * 32)
    with pytest.raises(BackendError, match=r"no sweep `crack`.*cracks"):
        tracker.latest_sweep("crack")
    assert tracker.find_sweep("crack", "0") is None


def test_files_in_an_object_store_are_left_to_the_client(parent: str, storage: Path, tmp_path: Path) -> None:
    with sqlite3.connect(storage / "mlflow.db") as tables:
        tables.execute("UPDATE runs SET artifact_uri = 's3://bucket/x' WHERE run_uuid = ?", (parent,))
    with opened(storage / "mlflow.db") as runs, pytest.raises(UnreadableError, match="elsewhere"):
        runs.fetch(parent, "sweep", tmp_path)
