"""What the driver does while trials report: record them in MLflow."""

from pathlib import Path
from typing import Any

from ray.tune import Callback, Checkpoint
from ray.tune.experiment import Trial

from segdist.core import storage
from segdist.engine.fit import MODEL, PICTURES
from segdist.pipeline.trial import CHECKPOINT_PATH, Job
from segdist.tracking import Tracker, names

_NO_SCORES = frozenset(
    {
        "first_step_at",
        "training_iteration",
        "should_checkpoint",
        "timestamp",
        "pid",
        "time_this_iter_s",
        "time_total_s",
        "iterations_since_restore",
        "time_since_restore",
        "done",
    }
)
"""Numbers about the process and Tune's own, not about what was learned."""


class Tracking(Callback):
    """One MLflow run a trial, written by the driver alone.

    Args:
        tracker: where to write.
        parent_run_id: the sweep's run.
        job: what the trials have in common.
        tags: further tags of every trial's run, such as the label policy.
    """

    def __init__(self, tracker: Tracker, parent_run_id: str, job: Job, tags: dict[str, str]) -> None:
        self._tracker, self._parent, self._job, self._tags = tracker, parent_run_id, job, tags
        self._run_ids: dict[str, str] = {}
        self._best: dict[str, tuple[float, str]] = {}
        self._knows_the_past = False

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Before the first step: drop the runs of trials that a killed driver started and its last save forgot."""
        if self._knows_the_past:
            return
        self._knows_the_past = True
        known = {trial.trial_id for trial in trials}
        for record in self._tracker.trials(self._parent):
            if record.trial_key not in known:
                self._tracker.discard(record.run_id)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Open the trial's run, or the one it had before an interruption."""
        run = self._job.run_of(trial.config)
        self._run_ids[trial.trial_id] = self._tracker.start_trial(
            self._parent,
            trial.trial_id,
            number=trials.index(trial),
            params={**run.model_dump(mode="json"), **trial.config},
            tags={
                **self._tags,
                "segdist.run_fingerprint": run.fingerprint,
                "segdist.label_set": self._job.labels_for(trial.config).rpartition("/")[2],
                "segdist.baseline": trial is trials[0],
                **({names.KEPT: self._job.kept(run)} if run.train.keep_every else {}),
            },
        )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log an epoch."""
        numbers = {k: float(v) for k, v in result.items() if isinstance(v, int | float) and k not in _NO_SCORES}
        self._tracker.log_metrics(self._run_ids[trial.trial_id], numbers, step=int(result.get("epoch", 0)))
        path, value = result.get(CHECKPOINT_PATH), float(result.get(self._job.metric, float("-inf")))
        if path and value >= self._best.get(trial.trial_id, (float("-inf"), ""))[0]:
            self._best[trial.trial_id] = value, path

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Keep the best model and its pictures, and close the run."""
        self._keep_model(trial)
        self._tracker.end(self._run_ids[trial.trial_id], "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Close the run of a trial that failed for good, with its error."""
        run_id = self._run_ids.get(trial.trial_id)
        if run_id:
            text = error_text(trial)
            self._tracker.log_text(run_id, text, "error.txt")
            self._tracker.end(run_id, "FAILED", reason=last_line(text))

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Trials that are still open were interrupted; running the sweep again goes on with them."""
        for trial in trials:
            if trial.trial_id in self._run_ids and not trial.is_finished():
                self._tracker.end(
                    self._run_ids[trial.trial_id], "KILLED", reason="stopped; runs on when the sweep does"
                )

    def get_state(self) -> dict[str, Any]:
        """What a resumed search needs to know."""
        return {"run_ids": self._run_ids, "best": self._best}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where a killed search was."""
        self._run_ids, self._best = state["run_ids"], state["best"]

    def _keep_model(self, trial: Trial) -> None:
        checkpoint = self._best_checkpoint(trial)
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            for part in (MODEL, PICTURES):
                if (Path(folder) / part).is_dir():
                    self._tracker.log_files(self._run_ids[trial.trial_id], Path(folder) / part, part)

    def _best_checkpoint(self, trial: Trial) -> Checkpoint | None:
        if trial.trial_id in self._best:
            filesystem, _ = storage.arrow_filesystem(self._job.storage_path)
            return Checkpoint(self._best[trial.trial_id][1], filesystem)
        best = trial.run_metadata.checkpoint_manager.best_checkpoint_result
        return best.checkpoint if best else None


def error_text(trial: Trial) -> str:
    """The traceback that ended a trial."""
    file = trial.error_file
    return Path(file).read_text() if file and Path(file).exists() else "no error was recorded"


def last_line(text: str) -> str:
    """The line of a traceback that says what happened."""
    return text.strip().splitlines()[-1]
