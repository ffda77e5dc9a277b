"""One start of a search: which trials are to run, what is known of them, and when one is stopped or done."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from sys import intern

from segdist.core import storage
from segdist.core.spec import SweepSpec
from segdist.core.text import counted
from segdist.metrics import is_minimised
from segdist.searching import memory, warm_start
from segdist.searching.budget import OVER, Budget
from segdist.searching.cost import Held
from segdist.searching.halving import Halving
from segdist.searching.ledger import MEMORY, Best, Epoch, Ledger, Saved, Trial, checkpoints_of
from segdist.searching.proposals import Proposals
from segdist.searching.repeats import confirmed, planned
from segdist.searching.stopping import is_guarded
from segdist.searching.tally import Tally
from segdist.sweepfile.label_policies import run_values
from segdist.sweepfile.loading import trials_of

_OF_THE_EPOCH = frozenset({"epoch", "seconds"})


class Search:
    """Hands out trials and writes down what becomes of them. Whoever runs them is told nothing else.

    Args:
        spec: the sweep; its trials, ranges and early stopping may differ from those of an earlier start.
        ledger: the trials so far.
        retry: whether trials that failed in an earlier start are tried again: their cause may be gone.
        clock: seconds, from any moment on.
        budget: what the sweep may take; None bounds nothing.

    Attributes:
        share: the part of what a trial asks for that it holds now, by its number: several may share it.
    """

    def __init__(
        self,
        spec: SweepSpec,
        ledger: Ledger,
        *,
        retry: bool = True,
        clock: Callable[[], float] = time.monotonic,
        budget: Budget | None = None,
    ) -> None:
        self.spec, self.ledger, self._budget = spec, ledger, budget
        asked = spec.resources
        one = Held(cpu_seconds=asked.cpus_per_worker, gpu_seconds=asked.gpus)
        self._held_each_second, self._clock = one * asked.workers, clock
        self._counted_until: dict[int, float] = {}
        self.share: Callable[[int], float] = lambda _: 1.0
        self.metric = spec.search.metric
        self._is_lower_better = is_minimised(self.metric)
        self._tally = Tally(self.metric)
        ledger.listen(self._tally.note)
        self._stop = spec.search.stop if spec.space and spec.search.stop and spec.search.stop.top_after else None
        asha = spec.search.asha if spec.space and not spec.search.stop else None
        self._halving = Halving(spec) if asha and asha.pause and trials_of(spec) > 1 else None  # one waits for nobody
        self._out: set[int] = set()
        self._chosen: set[int] = set()
        goes_on = not self._is_spent
        for trial in ledger.trials:
            if trial.state == "running" or (retry and trial.state == "failed") or (goes_on and trial.is_cut_off):
                ledger.write(trial.from_latest())
            elif (judged := self._judged(trial)) != trial:  # the constraints are not those of the start before
                ledger.write(judged.model_copy(update={"tracked": ""}))
        taken = warm_start.read(ledger.folder) if spec.search.warm_start and spec.space else None
        self._proposals = Proposals(spec, ledger.searched, taken.trials if taken else ())
        self.total = int(min(trials_of(spec), self._tally.searched + self._proposals.left))
        if self._halving:
            for trial in ledger.searched:
                self._halving.note(trial, is_broken=self._breaks(trial))
        todo = [trial.number for trial in ledger.searched if not trial.has_ended]
        todo = todo[: max(self.total - self.done, 0)]
        self._queue = [number for number in todo if not self._is_judged(ledger[number])]
        self._is_repeating = False
        if self.is_cut_off:
            self._cut_off()

    @property
    def done(self) -> int:
        """Trials of the search that ended, in whatever way."""
        return self._tally.done

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to run, or nothing to run it with."""
        return not self._is_left or self.is_cut_off

    @property
    def repeats(self) -> tuple[int, int]:
        """Trainings of the best trials with other seeds: those that ended, and those that there are to be at most."""
        confirm = self.spec.search.confirm if self.spec.space else None
        if confirm is None or self.done < self.total:
            return 0, confirm.seeds * min(confirm.trials, self.total) if confirm else 0
        wanted = [self._repeat_of(trial, seed) for trial, seed in planned(self.spec, self.ledger.searched)]
        return sum(repeat is not None and repeat.has_ended for repeat in wanted), len(wanted)

    @property
    def confirmed(self) -> list[int]:
        """Numbers of the trials that were trained again with every seed, the best trial first."""
        return confirmed(self.spec, self.ledger.searched, self.ledger.repeats)

    @property
    def _is_left(self) -> bool:
        """Whether trials of the search, or repeats of the best, have not ended."""
        return self.done < self.total or self.repeats[0] < self.repeats[1]

    @property
    def is_cut_off(self) -> bool:
        """Whether trials are left, of which the budget holds none."""
        return self._budget is not None and not self._out and self._is_left and not self._holds_another

    @property
    def was_cut_off(self) -> bool:
        """Whether a larger budget would have something to go on with."""
        return self.is_cut_off or any(trial.is_cut_off for trial in self.ledger.trials)

    @property
    def budget_said(self) -> str:
        """What of the budget is spent, for people; "" without one."""
        return self._budget.said(self._tally.gpu_seconds) if self._budget else ""

    @property
    def best(self) -> float | None:
        """The best score of all epochs of the search's trials that break no constraint, as far as is known."""
        return self._tally.best

    @property
    def leader(self) -> int | None:
        """The trial with that score; None before there is one."""
        return self._tally.leader

    def better(self, *scores: float) -> float:
        """The best of some scores."""
        return self._tally.better(*scores)

    @property
    def progress(self) -> tuple[int, int]:
        """Trials that ended, and epochs that were recorded: what tells whether a start came any further."""
        return self._tally.done + self._tally.repeated, self._tally.epochs

    def epochs(self, of_each: int) -> tuple[int, int]:
        """Epochs that need not be run any more, and those of the whole search, where a trial has so many.

        One that ended early counts as whole; where trials wait at rungs, what was run counts, and the whole is what the
        rungs are likely to leave over.
        """
        again = self.repeats[1] * of_each
        if self._halving:
            return self._tally.epochs, self._halving.epochs(self.total) + again
        done = (self._tally.done + self._tally.repeated) * of_each + self._tally.open_epochs
        return done, self.total * of_each + again

    @property
    def is_waiting(self) -> bool:
        """Whether `next` may give a trial later: those that run may be awaited, or break down."""
        return bool(self._out)

    def next(self) -> Trial | None:
        """The next trial to run: one that waits, or a new one, which is in the ledger before it starts; None for none.

        Raises:
            StorageError: the ledger cannot be written.
        """
        if not self._holds_another:
            if not self._out:
                self._cut_off()
            return None
        if not self._queue and self._halving and (best := self._halving.next(self._waiting())):
            self._let_go(self._halving, best, until=best.last_epoch)
        if not self._queue and self._tally.searched < self.total:
            self._queue.append(self._suggest())
        if not self._queue and self._stop and not self._out:
            self._choose()
        if not self._queue and self._halving:
            self._finish(self._halving)
        if not self._queue and not self._out and self.done >= self.total and not self._is_repeating:
            self._repeat_best()
        if not self._queue:
            return None
        number = self._queue.pop(0)
        self._out.add(number)
        trial = self.ledger[number]
        if trial.micro_batch is None and (known := memory.micro_batch_like(trial, self.ledger.trials)):
            return self.ledger.change(number, micro_batch=known)
        return trial

    def start(self, number: int) -> Trial:
        """A trial begins, or goes on from its latest checkpoint."""
        trial = self.ledger[number].from_latest()
        changes = {"state": "running", "reason": "", "starts": trial.starts + 1, "tracked": ""}
        trial = trial.model_copy(update={**changes, "machine": platform.node()})
        self._counted_until[number] = self._clock()
        self.ledger.write(trial)
        return trial

    def report(self, number: int, metrics: Mapping[str, float], checkpoint: str = "") -> bool:
        """An epoch of a trial; whether the trial is to be stopped.

        Args:
            number: of the trial.
            metrics: of the epoch by MLflow's names, with `epoch` and `seconds`.
            checkpoint: URI of what was saved after it; "" where nothing was.
        """
        trial, epoch = self._counted(number), int(metrics["epoch"])
        # Each report brings names of its own, and the ledger keeps them all: one copy does.
        measured = {intern(k): float(v) for k, v in metrics.items() if k not in _OF_THE_EPOCH and isfinite(v)}
        seconds = metrics.get("seconds", 0.0)
        trial = trial.with_epoch(Epoch(epoch=epoch, metrics=measured, seconds=seconds, at=time.time()))
        score = measured.get(self.metric)
        if checkpoint:
            of_use = trial.spent - trial.lost
            trial = trial.model_copy(update={"latest": Saved(uri=checkpoint, epoch=epoch), "of_use": of_use})
            if score is not None and (trial.best is None or self._is_no_worse(score, trial.best.score)):
                trial = trial.model_copy(update={"best": Best(uri=checkpoint, epoch=epoch, score=score)})
        stop = score is not None and self._proposals.report(number, epoch, score) and not is_guarded(trial, self.spec)
        if stop:
            trial = trial.model_copy(update={"state": "stopped", "reason": f"worse than others after epoch {epoch}"})
        elif trial.latest and self._is_spent and epoch < self._epochs_of(trial):
            stop = True
            trial = trial.model_copy(update={"state": "stopped", "reason": OVER})
        elif self._has_to_wait(trial):
            stop = True
            trial = trial.model_copy(update={"state": "waiting", "reason": "for the others to come as far"})
        self.ledger.write(trial)
        return stop

    def end(self, number: int) -> Trial:
        """A trial ran to its end, or was stopped."""
        self._out.discard(number)
        trial = self._counted(number, is_over=True)
        if trial.state == "running":
            trial = trial.model_copy(update={"state": "finished"})
        trial = self._judged(trial)
        self.ledger.write(trial)
        if trial.has_ended and not trial.is_cut_off:  # nobody is to learn from it that it was no good
            self._proposals.tell(trial)
        return trial

    def fail(self, number: int, reason: str) -> Trial:
        """A trial failed for good."""
        self._out.discard(number)
        trial = self._counted(number, is_over=True).model_copy(update={"state": "failed", "reason": reason})
        self.ledger.write(trial)
        self._proposals.tell(trial)
        return trial

    def interrupt(self, number: int, reason: str) -> Trial:
        """A trial that runs is stopped from outside, and taken up by the next start."""
        self._out.discard(number)
        trial = self._counted(number, is_over=True)
        if trial.state == "running":
            trial = trial.from_latest().model_copy(update={"reason": reason})
            self.ledger.write(trial)
        return trial

    def again(self, number: int, reason: str) -> Trial:
        """The process of a trial is gone: `next` gives the trial again, from its latest checkpoint."""
        trial = self.interrupt(number, reason)
        self._queue.insert(0, number)
        return trial

    def moved(self, number: int, reason: str) -> Trial:
        """A trial left its node, and all that it did is saved: `next` gives it again."""
        trial = self._counted(number)
        self.ledger.write(trial.model_copy(update={"of_use": trial.spent - trial.lost}))
        return self.again(number, reason)

    def out_of_memory(self, number: int, reason: str) -> Trial:
        """Memory did not hold a trial: `next` gives it with half the images at once, and with one it is infeasible.

        The step, the schedule and what was done since the latest checkpoint stay what they are.
        """
        held = self.micro_batch(self.ledger[number])
        if held > 1:
            less = (held + 1) // 2
            self.again(number, f"with {counted(less, 'image')} at once instead of {held}: {reason}")
            return self.ledger.change(number, micro_batch=less)
        self._out.discard(number)
        changes = {"state": "infeasible", "too_large": True, "micro_batch": 1}
        trial = self._counted(number, is_over=True).model_copy(update=changes)
        trial = self._judged(trial.model_copy(update={"reason": f"with one image at a time: {reason}"}))
        self.ledger.write(trial)
        self._proposals.tell(trial)
        return trial

    def micro_batch(self, trial: Trial) -> int:
        """Images of a worker's forward pass."""
        return trial.micro_batch or self.spec.run.override(run_values(trial.settings)).micro_batch

    def _counted(self, number: int, *, is_over: bool = False) -> Trial:
        """A trial, with what it has held since this was asked last."""
        trial, now = self.ledger[number], self._clock()
        since = self._counted_until.pop(number, now)
        if not is_over:
            self._counted_until[number] = now
        return trial.model_copy(
            update={"spent": trial.spent + self._held_each_second * ((now - since) * self.share(number))}
        )

    @property
    def _is_spent(self) -> bool:
        return self._budget is not None and self._budget.is_spent(self._tally.gpu_seconds)

    @property
    def _holds_another(self) -> bool:
        """Whether a further trial may start: one that is as long as those before ends within the budget."""
        if self._budget is None:
            return True
        usual = self._tally.usual_seconds
        beside = sum(max(usual - self.ledger[number].seconds, 0.0) for number in self._out)
        is_held = self._budget.holds(usual, gpu_seconds=self._tally.gpu_seconds, beside=beside)
        return is_held and not self._is_spent

    def _cut_off(self) -> None:
        """The budget is spent: what waits and has a model ends with it; a larger budget goes on."""
        for trial in self.ledger.trials:
            if trial.state == "waiting" and trial.latest:
                self.ledger.write(self._judged(trial.model_copy(update={"state": "stopped", "reason": OVER})))

    def _epochs_of(self, trial: Trial) -> int:
        """Of the whole trial."""
        return self.spec.run.override(run_values(trial.values)).train.total_epochs

    def _constraints(self, trial: Trial) -> dict[str, float | None]:
        """By how much each is broken."""
        known, bounds = trial.measured, self.spec.search.constraints
        held = {MEMORY: 1.0} if trial.too_large else {}
        return held | {name: known[name] - bound if name in known else None for name, bound in bounds.items()}

    def _judged(self, trial: Trial) -> Trial:
        """A trial that ended, with whether it keeps the constraints."""
        if not trial.has_ended or trial.state == "failed" or not self.spec.space:
            return trial
        judged = trial.model_copy(update={"constraints": self._constraints(trial)})
        if trial.state in ("finished", "infeasible"):
            judged = judged.model_copy(update={"state": "infeasible" if judged.broken else "finished"})
        return judged

    def _suggest(self) -> int:
        number = self.ledger.next_number
        storage.remove(checkpoints_of(self.ledger.folder, number))  # of a trial whose file somebody deleted
        shown = [trial.number for trial in self._waiting()] if self._halving else []
        values = self._proposals.ask(number, shown)
        seed = int(values.get("seed", self.spec.seed))
        self.ledger.write(Trial(number=number, values=values, is_baseline=number == 0, seed=seed))
        return number

    def _awaits_others(self, trial: Trial) -> bool:
        """Whether a trial has had its first epochs, after which only the best go on."""
        if self._stop is None or self._stop.top_after is None or trial.number in self._chosen or trial.repeats:
            return False
        return trial.last_epoch >= self._stop.top_after

    def _has_to_wait(self, trial: Trial) -> bool:
        """Whether a trial may not go on after the epoch that it has just had."""
        if not self._halving or trial.repeats:
            return self._awaits_others(trial)
        self._halving.note(trial, is_broken=self._breaks(trial))
        return self._halving.waits(trial)

    def _is_judged(self, trial: Trial) -> bool:
        """Whether it depends on others if a trial goes on."""
        return self._halving.is_judged(trial) if self._halving else self._awaits_others(trial)

    def _choose(self) -> None:
        """Every trial has had its first epochs: the best go on, the others are stopped."""
        assert self._stop is not None
        waiting = [trial for trial in self.ledger.searched if self._awaits_others(trial) and not trial.has_ended]
        sign = 1 if self._is_lower_better else -1
        first = {t.number: t.scores(self.metric, until=self._stop.top_after) for t in self.ledger.searched}
        broken = {t.number: self._breaks(t) for t in self.ledger.searched}
        ranked = sorted((broken[n], min(sign * s for s in scores), n) for n, scores in first.items() if scores)
        self._chosen = {number for _, _, number in ranked[: self._stop.keep]}
        for trial in waiting:
            if trial.number in self._chosen:
                self._queue.append(trial.number)
            else:
                self._give_up(trial, f"not among the best {self._stop.keep} after epoch {self._stop.top_after}")

    def _finish(self, halving: Halving) -> None:
        """No trial is among the best of its rung, and none is to begin: the sweep is brought to its end.

        One trial at least is trained as long as it may, and so is the untuned one, with which it is compared: as soon
        as there is room, for it has to be in any case.
        """
        waiting = self._waiting()
        best, untuned = halving.last(waiting), next((trial for trial in waiting if trial.is_baseline), None)
        running = [self.ledger[number] for number in self._out]
        is_open = any(not halving.is_let_go(trial) for trial in running)  # those may yet make others the best
        if best and not is_open and not self._has_rival(halving, best, running):
            self._let_go(halving, best, until=inf)
        elif untuned:
            self._let_go(halving, untuned, until=inf)
        elif not running:
            for trial in waiting:
                self._give_up(trial, f"not among the best after epoch {trial.last_epoch}")

    def _has_rival(self, halving: Halving, best: Trial, running: Sequence[Trial]) -> bool:
        """Whether one is trained as long as it may that this one would be trained for: the untuned one, if better."""
        ended = [t for t in self.ledger.searched if t.state in ("finished", "infeasible") and t.epochs]
        return any(not t.is_baseline or halving.is_ahead(t, of=best) for t in (*ended, *running))

    def _let_go(self, halving: Halving, trial: Trial, *, until: float) -> None:
        """A trial that waits goes on, and waits for nobody until after an epoch."""
        halving.let_go(trial, until=until)
        self._queue.append(trial.number)

    def _waiting(self) -> list[Trial]:
        """Those at a rung, for others to do worse."""
        return [trial for trial in self.ledger.searched if trial.state == "waiting" and self._is_judged(trial)]

    def _give_up(self, trial: Trial, reason: str) -> None:
        stopped = self._judged(trial.model_copy(update={"state": "stopped", "reason": reason}))
        self.ledger.write(stopped)
        self._proposals.tell(stopped)

    def _breaks(self, trial: Trial) -> bool:
        """Whether a trial is known to break a constraint."""
        return any((by or 0) > 0 for by in self._constraints(trial).values())

    def _repeat_best(self) -> None:
        """The search has come to its end: its best trials are trained again, those repeats that ended excepted."""
        self._is_repeating = True
        for trial, seed in planned(self.spec, self.ledger.searched):
            repeat = self._repeat_of(trial, seed)
            if repeat is None:
                number = self.ledger.trials[-1].number + 1
                storage.remove(checkpoints_of(self.ledger.folder, number))
                repeat = Trial(number=number, values=trial.values, seed=seed, repeats=trial.key)
                self.ledger.write(repeat)
            if not repeat.has_ended:
                self._queue.append(repeat.number)

    def _repeat_of(self, trial: Trial, seed: int) -> Trial | None:
        return next((t for t in self.ledger.repeats if (t.repeats, t.seed) == (trial.key, seed)), None)

    def _is_no_worse(self, score: float, than: float) -> bool:
        return score <= than if self._is_lower_better else score >= than
