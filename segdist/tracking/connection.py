"""A connection to MLflow: opened late, checked early, quiet, with errors that name the fix."""

import contextlib
import fcntl
import http.client
import logging
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from segdist.core.causes import cause_of, free_space
from segdist.core.environment import variables
from segdist.core.errors import BackendError, SegdistError, StorageError
from segdist.core.redaction import holds_credentials, redact, without_credentials
from segdist.core.storage import network_file_system, object_store_errors
from segdist.core.terminal import say
from segdist.tracking.rest import RestRuns
from segdist.tracking.runs import ClientRuns, Runs
from segdist.tracking.tables import UnreadableError, opened

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
_ANSWER_SECONDS = 5.0
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "6", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""For a server that answered before: two minutes while it is down, five while it hangs. Who sets them knows better."""
_NO_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_FILE_BYTES = 1_000_000
"""With less free, the temporary folder does not hold a file of a run."""
_SAID_EVERY = 60.0
"""Seconds between two lines about one server that does not answer."""


class Connection:
    """Where MLflow is; the client is made when it is first used, and never pickled.

    Args:
        uri: an MLflow tracking URI.
        artifact_root: where the files of new experiments go; "" leaves it to the server.
    """

    def __init__(self, uri: str, artifact_root: str) -> None:
        self.uri = uri
        self.artifact_root = artifact_root
        self._client: MlflowClient | None = None

    def __getstate__(self) -> dict[str, object]:
        """The addresses only: clients hold sockets and locks."""
        return {**self.__dict__, "_client": None}

    @contextlib.contextmanager
    def client(self) -> Iterator["MlflowClient"]:
        """The client; what goes wrong inside the block becomes an error for users.

        Raises:
            BackendError: nobody answers, or MLflow refuses.
            StorageError: the database or the artifacts cannot be written.
        """
        if self._client is None:
            self._client = self._open()
        try:
            yield self._client
        except _refusals() as error:
            raise self._lacking(error) or BackendError(
                f"MLflow at {self.shown} refused: {_first_line(error)}"
            ) from error
        except Exception as error:
            if not isinstance(error, (OSError, *object_store_errors())):  # of artifacts, which MLflow writes itself
                raise
            fix = cause_of(error) or "Check their folder."
            raise StorageError(f"MLflow's files under {self.artifact_root} cannot be used: {error}. {fix}") from error

    def read(self, ask: Callable[[Runs], T]) -> T:
        """What a question about runs is answered with, in the quickest way that there is to the same answer.

        Raises:
            BackendError: nobody answers, or MLflow refuses.
            StorageError: the database or the artifacts cannot be read.
        """
        if self._file and self._file.is_file():
            with contextlib.suppress(UnreadableError), opened(self._file) as runs:
                return ask(runs)
        with self.client() as client:
            is_server = self.uri.startswith(("http://", "https://"))
            return ask(RestRuns(client, self.uri) if is_server else ClientRuns(client))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes on this SQLite file out, so that what looks and then writes is one step.

        A server gets no lock.
        """
        if self._file is None:
            yield
            return
        with self._file.with_name(self._file.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # closing the file releases the lock, also when the process is killed

    @contextlib.contextmanager
    def writing(self) -> Iterator["MlflowClient"]:
        """The client, while other processes are kept out."""
        with self.client() as client, self.exclusive():
            yield client

    @contextlib.contextmanager
    def impatient(self) -> Iterator[None]:
        """Ask a server once for each thing, and wait seconds: the process is about to end."""
        with variables(_NO_PATIENCE):  # MLflow looks there before each request
            yield

    @property
    def shown(self) -> str:
        """The address without credentials."""
        return redact(self.uri)

    @property
    def risk(self) -> str:
        """What is to be known of the place of the database; "" where nothing is."""
        kind = network_file_system(self._file) if self._file else ""
        return kind and (
            f"MLflow's database {self._file} is on a network disk ({kind}), where SQLite's locks may not hold: several "
            "writers can damage it. Set tracking.uri to an MLflow server (`http://HOST:PORT`), or to `sqlite:///FILE` "
            "on a disk of this machine."
        )

    @property
    def _file(self) -> Path | None:
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    def _open(self) -> "MlflowClient":
        self._check()
        _silence_logs()
        if not self._file:
            for name, value in _PATIENCE.items():
                os.environ.setdefault(name, value)
            _Waits.of(self.shown)
        from mlflow import MlflowClient

        if not os.environ.get("SEGDIST_DEBUG"):  # it logs what it raises, with a hundred lines of traceback
            logging.getLogger("mlflow").setLevel(logging.CRITICAL)
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        try:
            with self.exclusive():  # two processes must not both create the tables
                if self._file and not self._file.stat().st_size:
                    _create(self._file)
                return _connected(MlflowClient(tracking_uri=self.uri, registry_uri=self.uri))
        except _refusals() as error:
            raise self._lacking(error) or BackendError(
                f"{self.shown} is no usable MLflow address: {_first_line(error)} {_FIX}"
            ) from error

    def _lacking(self, error: Exception) -> SegdistError | None:
        """What the machine or the network does not give, where it is that and no refusal of MLflow's."""
        if not (cause := cause_of(error)):
            temporary = tempfile.gettempdir()
            if shutil.disk_usage(temporary).free > _FILE_BYTES:
                return None
            return StorageError(  # MLflow does not say why it cannot copy a file
                f"The disk is full that MLflow's files are copied to: {free_space(temporary)}. Free some space, or set "
                "TMPDIR to a folder on another disk."
            )
        if self._file:
            return StorageError(f"MLflow's database {self._file} cannot be used: {cause}")
        return BackendError(f"MLflow at {self.shown} cannot be used: {cause}")

    def _check(self) -> None:
        if holds_credentials(self.uri):
            raise BackendError(
                f"tracking.uri must not hold credentials, but got {self.uri}. {without_credentials(self.uri)}"
            )
        scheme = urlsplit(self.uri).scheme
        if scheme in ("http", "https"):
            _answers(self.uri, self.shown)
        elif self._file is not None:
            _writable(self._file)
        elif scheme in ("", "file"):
            raise BackendError(f"MLflow no longer keeps runs in a plain folder, but tracking.uri={self.uri}. {_FIX}")


_FIX = "Set tracking.uri to `embedded`, to `sqlite:///FILE`, or to the `http://HOST:PORT` of an MLflow server."


def _answers(uri: str, shown: str) -> None:
    """Ask once with a short patience; MLflow itself would retry for minutes, which is right only later on."""
    request = urllib.request.Request(uri.rstrip("/") + "/health", method="GET")  # noqa: S310  http(s) only, see caller
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS):  # noqa: S310
            return
    except urllib.error.HTTPError:
        return  # somebody answers; whether it is MLflow shows in the first call
    except (OSError, http.client.HTTPException) as error:
        raise BackendError(
            f"No MLflow server answers at {shown} ({getattr(error, 'reason', error)}). Start one "
            f"(`mlflow server --host HOST --port PORT`); fix tracking.uri, or leave it at `embedded`."
        ) from error


class _Waits(logging.Handler):
    """Says that a server is waited for, where the HTTP client under MLflow logs that it tries again."""

    def __init__(self, shown: str) -> None:
        super().__init__(logging.WARNING)
        self._shown, self._said = shown, float("-inf")

    @classmethod
    def of(cls, shown: str) -> None:
        """Say so of this server from now on."""
        log = logging.getLogger("urllib3.connectionpool")
        log.propagate = False
        log.handlers = [one for one in log.handlers if not isinstance(one, cls)] + [cls(shown)]

    def emit(self, record: logging.LogRecord) -> None:
        """A request is tried again."""
        if "etrying" in str(record.msg) and time.monotonic() - self._said > _SAID_EVERY:
            self._said = time.monotonic()
            say(f"tracking  MLflow at {self._shown} does not answer; waiting for it", err=True)


def _writable(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):  # creates an empty file, which SQLite takes as an empty database
            pass
    except OSError as error:
        raise StorageError(
            f"MLflow's database {file} cannot be written ({error.strerror}). Set storage or tracking.uri to a "
            f"place you may write to."
        ) from error


def _create(file: Path) -> None:
    """A new database, there whole or not at all: MLflow's migrations cannot go on where they were cut short."""
    from mlflow import MlflowClient

    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        _connected(MlflowClient(tracking_uri=f"sqlite:///{part}"))
        part.replace(file)
    finally:
        for left in file.parent.glob(f".{file.name}.*.part*"):  # SQLite's journal, too, and what a killed process left
            left.unlink()


def _connected(client: "MlflowClient") -> "MlflowClient":
    """The client after its first call: SQLite creates its tables here, and a database of another program is noticed."""
    client.search_experiments(max_results=1)
    return client


def _silence_logs() -> None:
    """Silence what tells a user nothing: migrations of an empty database, progress bars of small files, run URLs."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # no network unless asked
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _refusals() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # MLflow lets some of them through, e.g. "file is not a database"

    return MlflowException, SQLAlchemyError


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
