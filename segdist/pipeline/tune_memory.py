"""What Tune keeps of every trial until the last has ended, let go of when a trial has: the ledger is what is asked."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.tune.execution.tune_controller import TuneController


@contextmanager
def ended_trials_forgotten() -> Iterator[None]:
    """A search's memory grows by what the ledger holds of a trial, and no more.

    Tune keeps ended trials, each with copies of its settings and windows over its metrics, to say in the end what
    became of them, and to write snapshots, which nobody reads. Of processes that it asked for, and did not need
    because another became free, it keeps what they were to be told first.
    """
    mark, end_step = TuneController._mark_trial_to_checkpoint, TuneController.on_step_end

    def forget(controller: TuneController) -> None:
        end_step(controller)
        if controller._stopped_trials or controller._failed_trials:
            _forget_ended(controller)

    TuneController._mark_trial_to_checkpoint = lambda *_: None
    TuneController.on_step_end = forget
    try:
        yield
    finally:
        TuneController._mark_trial_to_checkpoint, TuneController.on_step_end = mark, end_step


def _forget_ended(controller: TuneController) -> None:
    """All but one, for Tune takes no trials for snapshots that it has to read."""
    ended = [t for t in controller._trials if t.is_finished() and t not in controller._trial_to_actor]
    gone = {trial for trial in ended if trial is not controller._trials[-1]}
    controller._trials[:] = [trial for trial in controller._trials if trial not in gone]
    controller._stopped_trials -= gone
    controller._failed_trials -= gone
    actors = controller._actor_manager
    for actor in actors._pending_actors_to_enqueued_actor_tasks.keys() - actors._pending_actors_to_attrs.keys():
        del actors._pending_actors_to_enqueued_actor_tasks[actor]
