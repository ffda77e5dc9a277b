"""What MLflow is told while trials run. It shows what the ledger knows: where it is away, the search goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segdist.core.errors import SegdistError, StorageError
from segdist.core.terminal import say
from segdist.engine.fit import MODEL, PICTURES
from segdist.pipeline.checkpoints import fetch
from segdist.pipeline.trial import Job
from segdist.searching import Ledger, Trial
from segdist.tracking import Tracker, names

_AFTER_FAILURE = 20
"""Calls that are left out after one that failed: each may wait for a minute, in which no trial is heard."""
_MEASURED_AGAIN = ("runtime/", "model/bytes")


class Recording:
    """One MLflow run a trial, written by the driver alone.

    Args:
        tracker: where to write.
        parent_run_id: the sweep's run.
        job: what the trials have in common.
        tags: further tags of every trial's run, such as the label policy.
        ledger: what is recorded.
    """

    def __init__(self, tracker: Tracker, parent_run_id: str, job: Job, tags: Mapping[str, str], ledger: Ledger) -> None:
        self._tracker, self._parent, self._job, self._tags, self._ledger = tracker, parent_run_id, job, tags, ledger
        self._run_ids: dict[int, str] = {}
        self._incomplete: set[int] = set()
        self._pause = 0
        self._was_told = False

    def start(self, trial: Trial) -> None:
        """Open the trial's run, or the one it had before an interruption.

        Its driver may have been killed between the ledger and MLflow: what the ledger knows is told first.
        """
        self._try(trial.number, lambda: self._add_missing_epochs(trial, self._open(trial)))

    def epoch(self, number: int, metrics: Mapping[str, float], *, epoch: int) -> None:
        """Log an epoch."""
        if number in self._run_ids:
            self._try(number, lambda: self._log(self._run_ids[number], metrics, epoch))

    def end(self, trial: Trial, *, error: str = "") -> None:
        """Close the run of a trial that ended: with its best model, or with its error.

        What could not be recorded before is left to `catch_up`.
        """
        if trial.number not in self._incomplete:
            self._try(trial.number, lambda: self._close(trial, error=error))

    def interrupt(self, trial: Trial) -> None:
        """Mark a trial that was stopped before its end; running the sweep again goes on with it."""
        run = self._run_ids.get(trial.number)
        if run:
            self._try(trial.number, lambda: self._tracker.end(run, "KILLED", reason=trial.reason))

    def catch_up(self) -> None:
        """Record what the ledger knows and MLflow does not: after an outage, a crash, or a move to another server.

        Raises:
            SegdistError: MLflow is still away.
        """
        known = {trial.key for trial in self._ledger.trials}
        for record in self._tracker.trials(self._parent):
            if record.trial_key not in known:
                self._tracker.discard(record.run_id)  # of a trial whose file was deleted
        for trial in self._ledger.trials:
            if trial.has_ended and trial.tracked != self._tracker.uri:
                self._add_missing_epochs(trial, self._open(trial))
                self._close(trial)
        self._incomplete.clear()
        self._pause = 0

    def _log(self, run: str, metrics: Mapping[str, float], epoch: int) -> None:
        """Without what was measured beside other trials: models are timed again when nothing runs beside them."""
        shown = {name: value for name, value in metrics.items() if not name.startswith(_MEASURED_AGAIN)}
        self._tracker.log_metrics(run, shown, step=epoch)

    def _open(self, trial: Trial) -> str:
        run, number = self._job.run_of(trial.values), trial.number
        self._run_ids[number] = self._tracker.start_trial(
            self._parent,
            trial.key,
            number=number,
            params={**run.model_dump(mode="json"), **trial.values},
            tags={
                **self._tags,
                "segdist.run_fingerprint": run.fingerprint,
                "segdist.label_set": self._job.labels_for(trial.values).rpartition("/")[2],
                "segdist.baseline": trial.is_baseline,
                **({names.KEPT: self._job.kept(run)} if run.train.keep_every else {}),
            },
        )
        return self._run_ids[number]

    def _close(self, trial: Trial, *, error: str = "") -> None:
        run = self._run_ids[trial.number]
        if trial.state == "failed":
            self._tracker.log_text(run, error or trial.reason, "error.txt")
            self._tracker.end(run, "FAILED", reason=trial.reason)
        else:
            self._keep_model(trial, run)
            self._tracker.tag(run, names.BROKEN, json.dumps(trial.broken))
            self._tracker.end(run, "FINISHED")
        self._ledger.change(trial.number, tracked=self._tracker.uri)

    def _add_missing_epochs(self, trial: Trial, run: str) -> None:
        if not trial.epochs:
            return
        shown = {step for step, _ in self._tracker.history(run, self._job.metric)}
        for epoch in trial.epochs:
            if epoch.epoch not in shown:
                self._log(run, {**epoch.metrics, "seconds": epoch.seconds}, epoch.epoch)

    def _keep_model(self, trial: Trial, run: str) -> None:
        """The model and pictures of the best checkpoint; where that is damaged, of the latest."""
        places = dict.fromkeys(saved.uri for saved in (trial.best, trial.latest) if saved)
        with TemporaryDirectory(prefix="segdist-") as folder:
            for number, place in enumerate(places):
                files = Path(folder, str(number))
                try:
                    fetch(place, files)
                except StorageError as error:
                    say(f"trial {trial.number}: {error}")
                    continue
                for part in (MODEL, PICTURES):
                    if (files / part).is_dir():
                        self._tracker.log_files(run, files / part, part)
                return

    def _try(self, number: int, write: Any) -> None:
        """Write, or leave it to `catch_up`; trials do not wait for a server that does not answer."""
        if self._pause:
            self._pause -= 1
            self._incomplete.add(number)
            return
        try:
            write()
        except SegdistError as error:
            self._pause = _AFTER_FAILURE
            self._incomplete.add(number)
            if not self._was_told:
                self._was_told = True
                say(f"tracking  {str(error).splitlines()[0]} The search goes on; MLflow is told when it answers again.")
