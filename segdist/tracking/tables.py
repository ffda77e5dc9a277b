"""MLflow's SQLite database, read as tables: MLflow makes an object of every value, and takes seconds to be imported.

Only for reading, and only while the tables are those that are known here; whatever is unusual is left to MLflow's own
client, which finds the words for it.
"""

import math
import os
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from segdist.tracking.runs import DatasetInput, Point, Run

_COLUMNS = {
    "experiments": "experiment_id name artifact_location lifecycle_stage creation_time last_update_time workspace",
    "runs": "run_uuid name source_type source_name entry_point_name user_id status start_time end_time source_version "
    "lifecycle_stage artifact_uri experiment_id deleted_time",
    "tags": "key value run_uuid",
    "params": "key value run_uuid",
    "metrics": "key value timestamp run_uuid step is_nan",
    "latest_metrics": "key value timestamp step is_nan run_uuid",
    "inputs": "input_uuid source_type source_id destination_type destination_id step",
    "datasets": "dataset_uuid experiment_id name digest dataset_source_type dataset_source dataset_schema "
    "dataset_profile",
}
"""Of MLflow 3.10 to 3.17. A table that has others may mean something else."""
_PATIENCE = 30.0
"""Seconds that a writer may take."""


class UnreadableError(Exception):
    """Here MLflow's own client has to be asked."""


@contextmanager
def opened(file: Path) -> Iterator["TableRuns"]:
    """The runs in a database of MLflow.

    Raises:
        UnreadableError: there is none, its tables are others, or, later on, what is asked for is not there.
    """
    if os.environ.get("MLFLOW_ENABLE_WORKSPACES", "").lower() in ("1", "true"):
        raise UnreadableError("which experiments may be seen is MLflow's to say")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)) as tables:
            for name, columns in _COLUMNS.items():
                found = tables.execute("SELECT name FROM pragma_table_info(?)", (name,)).fetchall()
                if {column for (column,) in found} != set(columns.split()):
                    raise UnreadableError(f"the table `{name}` has other columns")
            tables.execute("PRAGMA temp_store = MEMORY")
            tables.execute("CREATE TEMP TABLE chosen (run_uuid TEXT)")
            yield TableRuns(tables)
    except (sqlite3.Error, OSError) as error:
        raise UnreadableError(str(error)) from error


class TableRuns:
    """See `Runs`.

    Args:
        tables: a connection.
    """

    def __init__(self, tables: sqlite3.Connection) -> None:
        self._tables = tables

    def experiment(self, name: str) -> str | None:
        """See `Runs`."""
        found = self._tables.execute("SELECT experiment_id FROM experiments WHERE name = ?", (name,)).fetchall()
        if len(found) > 1:
            raise UnreadableError("several workspaces have an experiment of this name")
        return str(found[0][0]) if found else None

    def experiment_names(self) -> list[str]:
        """See `Runs`."""
        raise UnreadableError("asked for where something is missing: MLflow's client looks once more, and says so")

    def active_experiments(self) -> list[str]:
        """See `Runs`."""
        found = self._tables.execute("SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active'")
        return [str(key) for (key,) in found]

    def run(self, run_id: str) -> Run:
        """See `Runs`."""
        found = self._read("INSERT INTO chosen SELECT run_uuid FROM runs WHERE run_uuid = ?", run_id)
        if not found:
            raise UnreadableError("there is no such run")
        return found[0]

    def tagged(self, experiment_id: str, tag: str, value: str = "", *, status: str = "") -> list[Run]:
        """See `Runs`."""
        return self._read(
            "INSERT INTO chosen SELECT run_uuid FROM tags JOIN runs USING (run_uuid) WHERE key = ? "
            "AND ? IN (value, '') AND experiment_id = ? AND ? IN (status, '') AND lifecycle_stage = 'active'",
            tag,
            value,
            int(experiment_id),
            status,
        )

    def history(self, run_id: str, metric: str) -> list[Point]:
        """See `Runs`."""
        points = self._tables.execute(
            "SELECT step, CASE is_nan WHEN 1 THEN NULL ELSE value END, timestamp FROM metrics "
            "WHERE run_uuid = ? AND key = ? ORDER BY timestamp, step, value",
            (run_id, metric),
        )
        return [Point(step, _number(value), at) for step, value, at in points]

    def fetch(self, run_id: str, artifact_path: str, folder: Path) -> Path | None:
        """See `Runs`."""
        found = self._tables.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
        place = urlsplit(found[0] if found else "unknown:")
        if place.scheme not in ("", "file") or place.netloc:
            raise UnreadableError("its files are elsewhere")
        source = Path(unquote(place.path) if place.scheme else place.path, artifact_path)
        if not source.exists():
            return None
        copy = folder / PurePosixPath(artifact_path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, copy)
        return copy

    def _read(self, choice: str, *values: object) -> list[Run]:
        """The runs that a statement puts into the table `chosen`, as they are at one moment."""
        try:
            self._tables.execute(choice, values)  # begins a transaction
            rows = self._tables.execute(
                "SELECT run_uuid, experiment_id, name, status, start_time, end_time "
                "FROM chosen JOIN runs USING (run_uuid) ORDER BY start_time, run_uuid"
            ).fetchall()
            params = self._by_run("SELECT run_uuid, key, value FROM chosen JOIN params USING (run_uuid)")
            tags = self._by_run("SELECT run_uuid, key, value FROM chosen JOIN tags USING (run_uuid)")
            metrics = self._by_run(
                "SELECT run_uuid, key, CASE is_nan WHEN 1 THEN NULL ELSE value END "
                "FROM chosen JOIN latest_metrics USING (run_uuid)"
            )
            inputs = self._inputs()
        finally:
            self._tables.rollback()
        return [
            Run(
                run_id, str(experiment), name or "", status, start, end or 0, params=params[run_id],
                metrics={key: _number(value) for key, value in metrics[run_id].items()}, tags=tags[run_id],
                datasets=inputs[run_id],
            )
            for run_id, experiment, name, status, start, end in rows
        ]  # fmt: skip

    def _inputs(self) -> Mapping[str, list[DatasetInput]]:
        """The data sets of the chosen runs, each of them read once."""
        of_runs = self._tables.execute(
            "SELECT run_uuid, source_id FROM chosen JOIN inputs ON destination_id = run_uuid "
            "WHERE destination_type = 'RUN' AND source_type = 'DATASET'"
        ).fetchall()
        known = {}
        for key in {key for _, key in of_runs}:
            name, digest, profile = self._tables.execute(
                "SELECT name, digest, dataset_profile FROM datasets WHERE dataset_uuid = ?", (key,)
            ).fetchone()
            known[key] = DatasetInput(name, digest, profile or "{}")
        found: dict[str, list[DatasetInput]] = defaultdict(list)
        for run_id, key in of_runs:
            found[run_id].append(known[key])
        return found

    def _by_run(self, query: str) -> Mapping[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for run_id, key, value in self._tables.execute(query):
            found[run_id][key] = value
        return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value
