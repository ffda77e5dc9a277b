"""TensorBoard's event files: a folder a trial, which `tensorboard --logdir` shows while the trial runs."""

import json
import shutil
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import hparams

from segdist.tracking.encoding import finite
from segdist.tracking.mirrors.shown import Shown
from segdist.tracking.values import Measured


class Mirror:
    """One file a trial: gone on with as epochs come, and written anew by another driver, or where epochs were redone.

    Args:
        folder: of all trials.
        sweep: its name, which the folder's own path says.
    """

    def __init__(self, folder: Path, sweep: str) -> None:  # noqa: ARG002 - of the interface
        self._folder = folder
        self._files: dict[str, _File] = {}

    def show(self, trial: Shown) -> None:
        """Write the epochs that the file does not have."""
        file = self._files.get(trial.name)
        if file is None or trial.epochs[: len(file.epochs)] != file.epochs:
            if file:
                file.close()
            file = self._files[trial.name] = _File(self._folder / trial.name, trial)
        file.add(trial.epochs[len(file.epochs) :])
        if trial.has_ended:
            self._files.pop(trial.name).close()

    def close(self) -> None:
        """Close the files of trials that run on."""
        for file in self._files.values():
            file.close()
        self._files.clear()


class _File:
    def __init__(self, folder: Path, trial: Shown) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.epochs: tuple[Measured, ...] = ()
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns() // 1000}.{trial.name}"))
        began = trial.epochs[0].at if trial.epochs else time.time()
        self._write(Event(wall_time=began, file_version="brain.Event:2"))
        plain = {name: _plain(value) for name, value in trial.params.items()}
        for summary in hparams(plain, {"best": 0.0})[:2]:
            self._write(Event(wall_time=began, summary=summary))

    def add(self, epochs: tuple[Measured, ...]) -> None:
        for one in epochs:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in finite(one.metrics).items()]
            self._write(Event(wall_time=one.at or time.time(), step=one.epoch, summary=Summary(value=values)))
        self.epochs += epochs
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


def _plain(value: object) -> str | float | bool:
    return value if isinstance(value, str | int | float) else json.dumps(value, default=str)
