"""What MLflow is told while trials run. It shows what the ledger knows, told by a thread that no trial waits for.

Nothing is queued but the numbers of the trials of which there is news: what the news is stands in the ledger, on the
disk. So a server may be away for as long as it likes, and what a killed driver did not tell, the next one tells.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from PIL import Image

from segdist.core import storage
from segdist.core.errors import SegdistError, StorageError
from segdist.core.panels import encode_jpeg
from segdist.core.spec import RunSpec
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.datasets.shards import Dataset
from segdist.engine.parts import MODEL, PICTURES
from segdist.metrics import is_minimised
from segdist.pipeline.checkpoints import DamagedError, fetch
from segdist.pipeline.trial import Job
from segdist.reading.examples import decode_image
from segdist.searching import Ledger, Trial
from segdist.searching.budget import OVER
from segdist.tracking import Measured, Tracker, names
from segdist.tracking.encoding import flatten
from segdist.tracking.mirrors import Mirrors, Shown
from segdist.tracking.notes import differing

_LONGEST_PAUSE = 60.0
"""Seconds between two tries, while MLflow is away."""
_PATIENCE = 3600.0
"""Seconds that a search which has ended waits for an MLflow that is away."""
_PATIENCE_WHEN_STOPPED = 10.0
"""The same, of a search that was stopped: the next start tells what is left."""
_MANY = 20
PICTURES_SHOWN = 4
"""Validation images in MLflow's image grid: each is kept after 1, 2, 4, 8, ... epochs, and after the best one."""
BEST, VALIDATION = "best_epoch", "validation"
"""Names of pictures: MLflow's grid shows one step of all trials, and only under a name of its own is it each's best."""
_BEST_STEP = 1
_SUMMED_UP_EVERY = 5.0
"""Seconds, at the least, between two points of the sweep's own charts."""
_ENDED = "trials/ended"
_ALWAYS = ("model.family", "train.lr", "train.batch_size", "train.epochs", "seed")
_MOST_PARAMS = 40
"""More than that, and those that were searched are not found among them."""
_EXAMPLE_SIZE = 256
"""Pixels of the longest side of the picture that a model is tried with; it goes with each model."""
_MEASURED_AGAIN = ("runtime/", "model/bytes")


class Recording:
    """One MLflow run a trial, written by the driver alone.

    Args:
        tracker: where to write.
        parent_run_id: the sweep's run.
        job: what the trials have in common.
        tags: further tags of every trial's run, such as the label policy.
        ledger: what is recorded; read by the thread, written by its owner alone.
        all_params: whether runs have every key as a parameter.
        mirrors: other trackers that are told the same.
    """

    def __init__(
        self,
        tracker: Tracker,
        parent_run_id: str,
        job: Job,
        tags: Mapping[str, str],
        ledger: Ledger,
        *,
        all_params: bool = False,
        mirrors: Mirrors | None = None,
    ) -> None:
        self._tracker, self._parent, self._job, self._tags, self._ledger = tracker, parent_run_id, job, tags, ledger
        self._all_params, self._mirrors = all_params, mirrors
        self._tried: bytes | None = None
        self._summed_up = float("-inf")
        self._news: dict[int, None] = {}
        self._change = threading.Condition()
        self._is_ending = False
        self._is_given_up = threading.Event()
        self._is_away = False
        self._errors: dict[int, str] = {}
        self._runs: dict[int, _Run] = {}
        self._told = deque[int]()
        self._is_telling = False
        self._told_at = time.time()
        self._failure: BaseException | None = None

    @property
    def spool(self) -> int:
        """Trials of which there is news that MLflow was not told."""
        return len(self._news) + self._is_telling

    @property
    def told_at(self) -> float:
        """When MLflow took the latest news, in seconds since 1970; now, where there is none."""
        return self._told_at if self.spool else time.time()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Tell MLflow, in the background, what `changed` says there is; at the end, what is left to tell.

        Where MLflow does not come back in time, the rest is left to `catch_up`.
        """
        thread = threading.Thread(target=self._work, name="recording", daemon=True)
        self._is_ending = False
        self._is_given_up.clear()
        thread.start()
        patience = _PATIENCE_WHEN_STOPPED
        try:
            yield
            patience = _PATIENCE
        finally:
            with self._change:
                self._is_ending = True
                self._change.notify()
                left = len(self._news)
            if left > _MANY:
                say(f"tracking  MLflow is told of {counted(left, 'more trial')}")
            self._wait_for(thread, patience)
            self._is_given_up.set()
            self._mark_told()
        if self._failure:
            raise self._failure

    def _wait_for(self, thread: threading.Thread, patience: float) -> None:
        """Until all is told, or patience is at its end; while MLflow is away, people are told that this is why."""
        until = time.monotonic() + patience
        while thread.is_alive() and (left := until - time.monotonic()) > 0:
            thread.join(min(left, 1.0))
            if self._is_away and patience > _PATIENCE_WHEN_STOPPED:
                self._is_away = False
                say(f"tracking  the trials are done; MLflow is waited for, {patience / 60:.0f} minutes at most")

    def changed(self, number: int, *, error: str = "") -> None:
        """There is news of a trial in the ledger. Never waits for MLflow, and never fails because of it.

        Args:
            number: of the trial.
            error: the traceback that ended it.
        """
        self._mark_told()
        if error:
            self._errors[number] = error
        with self._change:
            self._news[number] = None
            self._change.notify()

    def catch_up(self) -> None:
        """Tell MLflow now what it does not know: after an outage, a crash, or a move to another server.

        Raises:
            SegdistError: MLflow is still away.
        """
        known = {trial.key for trial in self._ledger.trials}
        for record in self._tracker.trials(self._parent):
            if record.trial_key not in known:
                self._tracker.discard(record.run_id)  # of a trial whose file was deleted
        for trial in self._ledger.trials:
            if trial.has_ended and trial.tracked != self._tracker.uri:
                self._tell(trial.number)
            elif trial.has_ended and self._mirrors:
                self._mirrors.show_missing(self._mirrored(trial))
        self._news.clear()
        self._mark_told()
        self._sum_up()
        self._tracker.close_orphans(self._parent)  # second runs of a trial, made where an answer was lost

    def _work(self) -> None:
        """Tell the news until there is an end of it; what could not be told again and again."""
        pause = 0.0
        while (number := self._next()) is not None:
            try:
                self._tell(number)
                if time.monotonic() - self._summed_up > _SUMMED_UP_EVERY:
                    self._sum_up()
                pause, self._is_away = 0.0, False
                self._told_at, self._is_telling = time.time(), False
            except SegdistError as error:
                self._is_away = True
                if not pause:
                    say(f"tracking  {str(error).splitlines()[0]} Trials go on; MLflow is told when it answers again.")
                with self._change:
                    self._news.setdefault(number)
                    self._is_telling = False
                pause = min(max(2 * pause, 1.0), _LONGEST_PAUSE)
                if self._is_given_up.wait(pause):
                    return
            except BaseException as error:  # noqa: BLE001 - raised where somebody sees it
                self._failure = error
                return

    def _next(self) -> int | None:
        """The trial whose news is the oldest; None for the end."""
        with self._change:
            self._change.wait_for(lambda: self._news or self._is_ending)
            number = next(iter(self._news), None)
            if number is not None:
                del self._news[number]
                self._is_telling = True
            return number

    def _mark_told(self) -> None:
        """Note in the ledger which ended trials are told; from the ledger's own thread."""
        while self._told:
            trial = self._ledger[self._told.popleft()]
            if trial.has_ended:
                self._ledger.change(trial.number, tracked=self._tracker.uri)

    def _tell(self, number: int) -> None:
        """Make the trial's run show what the ledger knows of it now."""
        trial = self._ledger[number]
        if not trial.starts:
            return
        if self._mirrors:
            self._mirrors.show(self._mirrored(trial))
        run = self._runs.get(number)
        if run is None or run.starts != trial.starts:
            run = self._runs[number] = self._open(trial)
        self._tell_epochs(trial, run)
        self._show_pictures(trial, run)
        if trial.has_ended:
            self._close(trial, run.run_id)
            self._told.append(number)
            del self._runs[number]
        elif trial.state == "waiting":
            self._tracker.end(run.run_id, "KILLED", reason=trial.reason)

    def _sum_up(self) -> None:
        """How far the search has come, on the sweep's own run: the best so far and what all trials cost."""
        self._summed_up = time.monotonic()
        metric, trials = self._job.metric, self._ledger.searched
        ended = sum(trial.has_ended for trial in trials)
        scores = [score for trial in trials if not trial.broken for score in trial.scores(metric)]
        best = {names.BEST + metric: (min if is_minimised(metric) else max)(scores)} if scores else {}
        self._tracker.log_metrics(self._parent, {_ENDED: ended, **best, **self._ledger.cost.metrics}, step=ended)

    def _mirrored(self, trial: Trial) -> Shown:
        run = self._job.run_of(trial.settings)
        return Shown(
            name=trial.key,
            title=_title(trial, run),
            params=_params(run, trial.settings, all_of_them=self._all_params),
            epochs=tuple(Measured(e.epoch, self._shown(e.metrics), e.seconds, e.at) for e in trial.epochs),
            has_ended=trial.has_ended,
            reason=trial.reason,
        )

    def _open(self, trial: Trial) -> "_Run":
        values, number = self._job.run_of(trial.settings), trial.number
        run_id = self._tracker.start_trial(
            self._parent,
            trial.key,
            number=number,
            params=_params(values, trial.settings, all_of_them=self._all_params),
            title=_title(trial, values),
            tags={
                **self._tags,
                "segdist.run_fingerprint": values.fingerprint,
                "segdist.label_set": self._job.labels_for(trial.values).rpartition("/")[2],
                "segdist.baseline": trial.is_baseline,
                **({names.REPEATS: trial.repeats} if trial.repeats else {}),
                **({names.KEPT: self._job.kept(values)} if values.train.keep_every else {}),
            },
        )
        self._tracker.log_text(run_id, yaml.safe_dump(values.model_dump(mode="json"), sort_keys=False), "run.yaml")
        shown: dict[int, float | None] = {**dict(self._tracker.history(run_id, self._job.metric))}
        return _Run(run_id, trial.starts, shown, pictured=max(shown, default=0))

    def _tell_epochs(self, trial: Trial, run: "_Run") -> None:
        """Those that the run does not show, or shows as they were before they were done again."""
        metric = self._job.metric
        new = {e.epoch for e in trial.epochs if run.shown.get(e.epoch, _NEVER) != e.metrics.get(metric)}
        if not new:
            return
        epochs = [Measured(e.epoch, self._shown(e.metrics), e.seconds, e.at) for e in trial.epochs]
        self._tracker.log_epochs(run.run_id, epochs, new=new, again=bool(new & run.shown.keys()))
        run.shown |= {e.epoch: e.metrics.get(metric) for e in trial.epochs}

    def _show_pictures(self, trial: Trial, run: "_Run") -> None:
        """The same validation images after 1, 2, 4, 8, ... epochs and after the best one, as far as they are kept."""
        saved, name = (trial.best, BEST) if trial.has_ended else (trial.latest, VALIDATION)
        if saved is None or not (trial.has_ended or saved.epoch >= 2 * run.pictured):
            return
        try:
            kept = storage.find(storage.join(saved.uri, PICTURES), suffix=".jpg")
            first = sorted(entry.uri for entry in kept)[:PICTURES_SHOWN]
            pictures = {picture_key(name, number): storage.read_bytes(uri) for number, uri in enumerate(first)}
        except StorageError:  # the trial went on, and its checkpoint gave way to the next
            return
        self._tracker.log_pictures(run.run_id, pictures, step=_BEST_STEP if trial.has_ended else saved.epoch)
        run.pictured = saved.epoch

    @staticmethod
    def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
        """Without what was measured beside other trials: models are timed again when nothing runs beside them."""
        return {name: value for name, value in metrics.items() if not name.startswith(_MEASURED_AGAIN)}

    def _close(self, trial: Trial, run_id: str) -> None:
        if trial.state == "failed":
            self._tracker.log_text(run_id, self._errors.pop(trial.number, trial.reason), "error.txt")
            self._tracker.end(run_id, "FAILED", reason=trial.reason)
        else:
            self._keep_model(trial, run_id)
            held = {names.MICRO_BATCH: str(trial.micro_batch)} if trial.micro_batch else {}
            why = OVER if trial.is_cut_off else ""  # also where an earlier start left one
            tags = {names.BROKEN: json.dumps(trial.broken), names.END: why, **held}
            self._tracker.end(run_id, "FINISHED", tags=tags)

    def _keep_model(self, trial: Trial, run_id: str) -> None:
        """The model and pictures of the best checkpoint; where that is damaged, of the latest."""
        if trial.thinned:
            say(f"trial {trial.number}: its model stays where it was recorded first (`search.keep_checkpoints`)")
            if trial.tracked != self._tracker.uri:
                self._tracker.tag(run_id, names.MODEL_AT, trial.tracked)
            return
        places = {saved.uri: saved.epoch for saved in (trial.latest, trial.best) if saved}
        with TemporaryDirectory(prefix="segdist-") as folder:
            for number, (place, epoch) in enumerate(reversed(places.items())):
                files = Path(folder, str(number))
                try:
                    fetch(place, files)
                except DamagedError as error:
                    say(f"trial {trial.number}: {error}")
                    continue
                if (files / PICTURES).is_dir():
                    self._tracker.log_files(run_id, files / PICTURES, PICTURES)
                if (files / MODEL).is_dir():
                    self._log_model(trial, run_id, files / MODEL, epoch)
                return

    def _log_model(self, trial: Trial, run_id: str, files: Path, epoch: int) -> None:
        of_epoch = [Measured(epoch, self._shown(e.metrics), e.seconds, e.at) for e in trial.epochs if e.epoch == epoch]
        self._tracker.keep_model(
            run_id,
            files,
            epoch=epoch,
            family=self._job.run_of(trial.settings).model.family,
            example=self._example(),
            measured=of_epoch[0] if of_epoch else None,
        )

    def _example(self) -> bytes:
        """The first validation image, made small; empty where there is none."""
        if self._tried is None:
            rows = Dataset.open(self._job.dataset_uri).rows("val") if self._job.dataset_uri else iter(())
            found = next((image for _, image in rows if image), b"")
            self._tried = _small(found) if found else b""
        return self._tried


def _small(image_bytes: bytes) -> bytes:
    image = Image.fromarray(decode_image(image_bytes, longest=_EXAMPLE_SIZE))
    image.thumbnail((_EXAMPLE_SIZE, _EXAMPLE_SIZE))
    return encode_jpeg(np.asarray(image))


def picture_key(name: str, number: int) -> str:
    """Under which all trials show the same validation image."""
    return f"{name}/{number:03d}"


def pictures_shown(most: int) -> list[list[str]]:
    """The keys of MLflow's tables of images: of each trial's best epoch, and of one epoch of all of them.

    Args:
        most: pictures that a trial keeps.
    """
    numbers = range(min(PICTURES_SHOWN, most))
    return [[picture_key(name, number) for number in numbers] for name in (BEST, VALIDATION)] if numbers else []


class _Run:
    """The run of a trial that runs, the search metric of the epochs that it shows, and the last one with pictures."""

    def __init__(self, run_id: str, starts: int, shown: dict[int, float | None], *, pictured: int) -> None:
        self.run_id, self.starts, self.shown, self.pictured = run_id, starts, shown, pictured


_NEVER = object()


def _title(trial: Trial, run: RunSpec) -> str:
    family = trial.values.get("model.family", run.model.family)
    searched = {key: value for key, value in trial.settings.items() if key != "model.family"}
    return f"{family} {'untuned' if trial.is_baseline else differing(searched)}"


def _params(run: RunSpec, searched: Mapping[str, object], *, all_of_them: bool) -> dict[str, object]:
    """What trials are compared by: what is searched, what is always asked for, and what differs from the default."""
    every = flatten(run.model_dump(mode="json"))
    if all_of_them:
        return {**every, **searched}
    chosen = flatten(run.model_dump(mode="json", exclude_defaults=True))
    of_others = {k for k in chosen if k.startswith("model.") and not k.startswith(f"model.{run.model.family}.")}
    shown = {**searched, **{key: every[key] for key in _ALWAYS}, **chosen}
    of_others -= {*searched, *_ALWAYS}
    return dict(islice(((key, value) for key, value in shown.items() if key not in of_others), _MOST_PARAMS))
