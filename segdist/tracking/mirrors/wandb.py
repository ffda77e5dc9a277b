"""Weights & Biases without a network: a folder a trial, which `wandb sync` sends where somebody wants it."""

import shutil
from pathlib import Path

import wandb

from segdist.tracking.encoding import finite
from segdist.tracking.mirrors.shown import Shown


class Mirror:
    """One offline run a trial, written when the trial has ended; a trial that went on afterwards is written anew.

    Args:
        folder: of all trials.
        sweep: its name.
    """

    def __init__(self, folder: Path, sweep: str) -> None:
        self._folder, self._sweep = folder, sweep

    def show(self, trial: Shown) -> None:
        """Write the run of a trial that has ended."""
        if not trial.has_ended:
            return
        folder = self._folder / trial.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run = wandb.init(
            mode="offline",
            dir=str(folder),
            project=self._sweep,
            id=f"{self._sweep}-{trial.name}",
            name=f"{trial.name} {trial.title}",
            config=dict(trial.params),
            notes=trial.reason,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        for one in trial.epochs:
            run.log(finite(one.metrics), step=one.epoch)
        run.finish()
        wandb.teardown()  # only then the file is whole

    def close(self) -> None:
        """Nothing is open between two trials."""
