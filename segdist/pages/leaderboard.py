"""The trials of a sweep in order, in the terminal and for machines."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.text import Text

from segdist import metrics
from segdist.core import registry
from segdist.core.json_values import JsonDict
from segdist.core.plugins import declaration
from segdist.core.spec import Range
from segdist.core.terminal import Console, Table
from segdist.core.text import counted
from segdist.metrics import Shown
from segdist.metrics.evaluator import shown
from segdist.pages.confirmed import Confirmed, Standing
from segdist.pages.front import unbeaten
from segdist.pages.tables import plain_table
from segdist.searching.budget import OVER
from segdist.searching.cost import Cost
from segdist.searching.ledger import MEMORY
from segdist.sweepfile.objectives import is_minimised
from segdist.tracking import SweepRecord, Tracker, TrialRecord, names

COSTS = {
    "runtime/latency_p50_ms": Shown("latency", "ms", digits=1, lower_is_better=True),
    "model/parameters": Shown("parameters", "M", digits=2, lower_is_better=True, factor=1e-6),
    "model/bytes": Shown("size", "MB", digits=2, lower_is_better=True, factor=1e-6),
}
"""What a model takes, in the order of its columns."""
_P95 = {"runtime/latency_p95_ms": Shown("latency P95", "ms", digits=1, lower_is_better=True)}


def compared_by() -> dict[str, Shown]:
    """What families are compared by, in this order; the page can show every other measure too."""
    return {f"val/{name}": how for name, how in metrics.shown_in("leaderboard").items()} | COSTS


def shown_as(objective: str) -> Shown:
    """How an objective is shown, named as in MLflow; one of a class has its name in the title."""
    _, _, name = objective.partition("/")
    _, _, of_class = name.partition("/")
    how = (COSTS | _P95).get(objective) or shown(name) or Shown(objective)
    return replace(how, title=f"{how.title} {of_class}") if of_class else how


@dataclass(frozen=True)
class Leaderboard:
    """A sweep and its trials.

    Attributes:
        sweep: the sweep.
        trials: of its search, best first.
        repeats: the trials that train some of them again with other seeds.
    """

    sweep: SweepRecord
    trials: tuple[TrialRecord, ...]
    repeats: tuple[TrialRecord, ...] = ()

    @property
    def metric(self) -> str:
        """What the search made as good as it could."""
        return self.sweep.metric

    @cached_property
    def space(self) -> dict[str, Range]:
        """The searched keys and their ranges."""
        return {key: Range.model_validate(value) for key, value in self.sweep.spec.get("space", {}).items()}

    @cached_property
    def best(self) -> TrialRecord | None:
        """The best model: of the confirmed trial with the best mean, else of the trial with the best score.

        Without confirmed ones, those that ended well come before others. No constraint is broken by it.
        """
        if self.confirmed:
            return self.confirmed[0].model
        scored = [t for t in self.trials if self.metric in t.metrics and not t.broken]
        return next((t for t in scored if t.status == "FINISHED"), scored[0] if scored else None)

    @cached_property
    def leader(self) -> TrialRecord | None:
        """The trial of the search whose values the best model has: itself, or the one that it repeats."""
        return self.confirmed[0].trial if self.confirmed else self.best

    @cached_property
    def confirmed(self) -> tuple[Confirmed, ...]:
        """The trials that were trained again with other seeds, all of them well; best mean first."""
        whole = [one for one in self._repeated if one.is_whole]
        return tuple(sorted(whole, key=lambda one: one.mean, reverse=not self.is_lower_better))

    @property
    def unconfirmed(self) -> tuple[Confirmed, ...]:
        """Those of which a repeat failed or breaks a constraint: none of them wins where another one is confirmed."""
        return tuple(one for one in self._repeated if not one.is_whole)

    @property
    def _repeated(self) -> list[Confirmed]:
        numbers = json.loads(self.sweep.tags.get(names.CONFIRMED, "[]"))
        return [self._with_repeats(trial) for trial in self.trials if trial.number in numbers]

    def _with_repeats(self, trial: TrialRecord) -> Confirmed:
        repeats = [r for r in self.repeats if r.repeats == trial.trial_key]
        well = [r for r in repeats if self.ended(r) == "finished" and self.metric in r.metrics]
        lost = [r for r in repeats if r.status in ("FINISHED", "FAILED") and r not in well]
        own = [trial] if self.ended(trial) == "finished" else []
        models = sorted([*own, *well], key=lambda t: t.metrics[self.metric], reverse=not self.is_lower_better)
        return Confirmed(trial, tuple(models), tuple(lost), tuple(t.metrics[self.metric] for t in models))

    def confirmed_by(self, trial: TrialRecord | None) -> Confirmed | None:
        """What is known of a trial's values, or of those that it repeats, with other seeds; None where nothing is."""
        key = trial and (trial.repeats or trial.trial_key)
        return next((one for one in self.confirmed if one.trial.trial_key == key), None)

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the search made as good as it could: its metric, and what stands beside it."""
        return (self.metric, *self.sweep.spec.get("search", {}).get("objectives", ()))

    @cached_property
    def front(self) -> tuple[TrialRecord, ...]:
        """The trials that no other one beats at all objectives; none where there is but one objective.

        They ended, break no constraint, and all objectives were measured of them.
        """
        names = self.objectives
        known = [t for t in self.trials if t.status == "FINISHED" and not t.broken and t.metrics.keys() >= {*names}]
        signs = {name: 1 if is_minimised(name) else -1 for name in names}
        on_front = unbeaten([[sign * t.metrics[name] for name, sign in signs.items()] for t in known])
        return tuple(t for t, is_on in zip(known, on_front, strict=True) if is_on and len(names) > 1)

    @property
    def front_in_words(self) -> str:
        """Which trials are on the front; "" where there is but one objective."""
        if len(self.objectives) < 2:
            return ""
        measures = ", ".join((self.metric, *(shown_as(name).heading for name in self.objectives[1:])))
        if front := self.front:
            which = ", ".join(str(t.number) for t in front)
            return f"trial{'s' if len(front) > 1 else ''} {which}: beaten by no other at {measures} at once"
        never = [name for name in self.objectives if not any(name in t.metrics for t in self.trials)]
        return f"none: {' and '.join(never) if never else 'all objectives at once'} was measured of no trial"

    @cached_property
    def baseline(self) -> TrialRecord | None:
        """The untuned trial: the sweep file's own values."""
        return next((t for t in self.trials if t.is_baseline), None)

    @cached_property
    def compared(self) -> Standing | None:
        """How clearly the best trial is the best, as it was recorded; None where that was not looked at."""
        found = Standing.of(self.sweep.tags.get(names.STANDING, ""))
        if found is None or self.leader is None or found.best != self.leader.number:
            return None
        return found if found.chances.keys() == {one.trial.number for one in self.confirmed} else None

    def chance(self, trial: TrialRecord) -> float | None:
        """How likely a confirmed trial is the best of them; None where that is not known."""
        return self.compared.chances.get(trial.number) if self.compared else None

    def gap(self, trial: TrialRecord) -> tuple[float, float] | None:
        """What the winner's mean is better by than that of a confirmed trial, in 95 of 100 resamplings."""
        return self.compared.gaps.get(trial.number) if self.compared else None

    @property
    def against_the_teacher(self) -> str:
        """What scores say where no person drew a mask in the images they are of, in a sentence; "" where one did."""
        profile = self.sweep.dataset.profile if self.sweep.dataset else {}
        splits = {name: profile.get("splits", {}).get(name) or {} for name in ("val", "test")}
        bare = [name for name, counts in splits.items() if counts.get("instances") and not counts.get("masks")]
        if not bare or not self.sweep.spec.get("label"):
            return ""
        return (
            f"No object of {' and '.join(bare)} has a mask of a person, so these scores say how well the student "
            "repeats its teacher's masks, not how right they are: look at the pictures. Where these masks are wrong, "
            "name another teacher in `label.teacher`; a few that you draw would tell "
            "(`segdist label review export SWEEP.yaml -o queue/ --teach`)."
        )

    @property
    def standing(self) -> str:
        """How clearly the best trial is the best, in a sentence; "" where it was not looked at."""
        found = self.compared
        if found is None:
            return ""
        which = f"trial{'s' if len(found.close) > 1 else ''} {', '.join(map(str, found.close))}"
        images, chance = f"On {found.images} validation images", f"{100 * found.chance:.0f} % of resamplings"
        if self.confirmed:
            said = f"not distinguishable from {which}" if found.close else "better than the others, beyond chance"
            trainings = counted(sum(len(one.models) for one in self.confirmed), "training")
            trials = counted(len(self.confirmed), "trial")
            return (
                f"{images} and {trainings} trial {found.best} is {said}; of {trials} with fresh seeds it is the best "
                f"in {chance} over images and seeds."
            )
        others = len(found.compared)
        next_best = "the next best trial" if others == 1 else f"the next best {counted(others, 'trial')}"
        said = f"not distinguishable from {which}" if found.close else f"better than {next_best}, beyond chance"
        return (
            f"{images} trial {found.best} is {said}; against {next_best} it is the best in {chance}. Another seed may "
            "change more than other images do."
        )

    @property
    def not_confirmed(self) -> list[str]:
        """Of each trial that could not be trained again well: why, in a sentence."""
        return [
            f"Trial {one.trial.number} is not confirmed: with another seed, as trial {repeat.number}, it "
            + (f"breaks a constraint ({self.broken(repeat)})." if repeat.broken else self._not_finished(repeat))
            for one in self.unconfirmed
            for repeat in one.lost
        ]

    def _not_finished(self, repeat: TrialRecord) -> str:
        if repeat.reason == OVER:
            return "was cut off by the budget."
        return ("failed" if repeat.status == "FAILED" else "was stopped early") + _because(repeat.reason)

    @property
    def nothing_feasible(self) -> str:
        """That no trial meets the constraints of the search, and by how much the nearest misses; "" where one does."""
        scored = [t for t in self.trials if self.metric in t.metrics]
        if not scored or self.best:
            return ""
        bounds = self.sweep.spec.get("search", {}).get("constraints", {})

        def missed(trial: TrialRecord) -> tuple[int, float]:
            """Constraints that are not measured, then by how many of their bounds the others are missed."""
            known = {name: by for name, by in trial.broken.items() if by is not None}
            return len(trial.broken) - len(known), sum(
                by / (abs(bounds.get(name, 0)) or 1) for name, by in known.items()
            )

        nearest = min(scored, key=missed)
        return f"No trial meets `search.constraints`. The nearest is trial {nearest.number}: {self.broken(nearest)}."

    def broken(self, trial: TrialRecord) -> str:
        """The constraints that a trial breaks, in words."""
        bounds = self.sweep.spec.get("search", {}).get("constraints", {})
        return ", ".join(
            "memory does not hold one image at a time"
            if name == MEMORY
            else f"{name} was not measured"
            if by is None
            else f"{name} is {by:.4g} above {bounds.get(name, 0):.6g}"
            for name, by in trial.broken.items()
        )

    @property
    def found_nothing(self) -> bool:
        """Whether trials were scored, and not one of them found anything."""
        if self.is_lower_better:  # of distances and errors none says so
            found = [t.metrics["val/iou"] for t in self.trials if "val/iou" in t.metrics]
            return bool(found) and max(found) <= 0
        best = self.score(self.best)
        return best is not None and best <= 0

    @cached_property
    def is_lower_better(self) -> bool:
        """Whether the search metric is an error or a distance."""
        return metrics.is_minimised(self.metric)

    @property
    def winner(self) -> TrialRecord | None:
        """The best trial, where it found anything."""
        return None if self.found_nothing else self.best

    @property
    def test_looks(self) -> str:
        """How often this sweep looked at the test split, in words; "" where it never did."""
        seen = [trial for trial in (*self.trials, *self.repeats) if trial.test_metrics]
        if len(seen) < 2:
            return "on images that no trial was chosen by, looked at once" if seen else ""
        others = ", ".join(str(trial.number) for trial in seen if trial is not self.best)
        return (
            f"on images that no trial was chosen by, looked at {counted(len(seen), 'time')}: "
            f"trial {others} won an earlier start, and was scored there too"
        )

    @property
    def cost(self) -> str:
        """What the trials cost, and how much of it in vain, in words; "" before the search has come to its end."""
        return str(Cost.from_metrics(self.sweep.metrics))

    @property
    def budget(self) -> str:
        """What of the sweep's budget is spent, in words; "" where it has none."""
        return self.sweep.tags.get(names.BUDGET, "")

    @cached_property
    def headings(self) -> dict[str, str]:
        """A short name for each searched key."""
        return short_names(self.space)

    def values(self, trial: TrialRecord) -> JsonDict:
        """What the search chose for a trial; without the keys whose `when` did not hold."""
        return {k: trial.params[k] for k, r in self.space.items() if k in trial.params and r.applies(trial.params)}

    @cached_property
    def columns(self) -> dict[str, Shown]:
        """What trials are compared by in addition to the search metric: what was measured of at least one of them."""
        known = {name for trial in self.trials for name in trial.metrics}
        columns = compared_by() | {name: shown_as(name) for name in self.objectives}
        return {name: c for name, c in columns.items() if name in known and name != self.metric}

    def score(self, trial: TrialRecord | None) -> float | None:
        """The search metric of a trial, in its best epoch."""
        return trial.metrics.get(self.metric) if trial else None

    def worth(self, trial: TrialRecord | None) -> float | None:
        """What a trial's values are worth: the mean over seeds where they were tried with several, else its score."""
        confirmed = self.confirmed_by(trial)
        return confirmed.mean if confirmed else self.score(trial)

    def gain(self, trial: TrialRecord | None) -> float | None:
        """How much more a trial is worth than the untuned one; None for that one itself, and where it found nothing."""
        worth, untuned = self.worth(trial), self.worth(self.baseline)
        if worth is None or not untuned or trial is self.baseline:
            return None
        return untuned - worth if self.is_lower_better else worth - untuned

    def ended(self, trial: TrialRecord) -> str:
        """How a trial ended, in words."""
        if trial.status == "FINISHED" and trial.broken:
            return "infeasible"
        if trial.status == "FINISHED" and trial.epochs < planned_epochs(trial):
            return "cut off by the budget" if trial.reason == OVER else "stopped early"
        return trial.status.lower()


def _because(reason: str) -> str:
    return f": {reason.rstrip('.')}." if reason else "."


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each key, or the whole key where that is not unique."""
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()}


def planned_epochs(trial: TrialRecord) -> int:
    """Epochs that a trial was to run, in all its phases; 0 where that is not recorded."""
    phases = trial.params.get("train.phases") or [{"epochs": trial.params.get("train.epochs")}]
    return sum(n for phase in phases if isinstance(phase, dict) and isinstance(n := phase.get("epochs"), int))


def leaderboard(tracker: Tracker, name: str, *, parent_run_id: str = "") -> Leaderboard:
    """The leaderboard of a sweep.

    Args:
        tracker: where it was recorded.
        name: of the sweep; the one started last counts.
        parent_run_id: this very one instead, where several have the name.

    Raises:
        BackendError: there is no such sweep.
    """
    sweep = tracker.sweep(parent_run_id) if parent_run_id else tracker.latest_sweep(name)
    every = tracker.trials(sweep.run_id)
    searched, repeats = (tuple(t for t in every if bool(t.repeats) is known) for known in (False, True))
    board = Leaderboard(sweep, searched, repeats)
    first = [one.trial for one in board.confirmed]
    return replace(board, trials=(*first, *(trial for trial in searched if trial not in first)))


def as_json(board: Leaderboard) -> JsonDict:
    """The leaderboard as JSON values: no NaN, best trial first, `best` the run id of the best model or null.

    `confirmed` are the trials that were trained again with other seeds, best mean first: `chance` to be the best of
    them, and `behind_by`, the interval of what the first is better by; null where that is not known.
    """
    trials = [
        {
            "run_id": trial.run_id,
            "status": trial.status,
            "params": trial.params,
            "metrics": trial.metrics,
            "seconds": round(trial.seconds, 3),
        }
        for trial in board.trials
    ]
    best = board.best.run_id if board.best else None
    front = {"front": [trial.run_id for trial in board.front]} if len(board.objectives) > 1 else {}
    confirmed = [
        {
            "trial": one.trial.number,
            "run_id": one.trial.run_id,
            "mean": one.mean,
            "std": one.spread,
            "seeds": [{"trial": t.number, "run_id": t.run_id, "score": board.score(t)} for t in one.models],
            "chance": board.chance(one.trial),
            "behind_by": board.gap(one.trial),
        }
        for one in board.confirmed
    ]
    return {
        "sweep": board.sweep.name,
        "parent_run_id": board.sweep.run_id,
        "trials": trials,
        "best": best,
        **front,
        "confirmed": confirmed,
    }


def print_leaderboard(board: Leaderboard, console: RichConsole | None = None) -> None:
    """Print the leaderboard: what was searched, how it scored, and what was won over the untuned trial."""
    out = Console(console)
    out.print(f"[bold]{escape(board.sweep.name)}[/bold]  {escape(board.sweep.question)}")
    out.print(_table(board))
    for line in conclusions(board):
        out.print(escape(line))


def leaderboard_text(board: Leaderboard) -> str:
    """What `print_leaderboard` prints, without colours."""
    text = StringIO()
    print_leaderboard(board, RichConsole(file=text, no_color=True))
    return text.getvalue().rstrip()


def _table(board: Leaderboard) -> Table:
    """A row a trial. Keys that every trial has are columns; those that only some have stand together in the last."""
    measures = (column.heading for column in board.columns.values())
    seeds = ("mean over seeds", "P(best)") if board.confirmed else ()
    table = plain_table("trial", *map(escape, ("status", board.metric, *seeds, "gain", *measures, "epochs", "seconds")))
    table.columns[1].justify = "left"
    for column in table.columns:
        column.no_wrap = True
    always = [key for key, searched in board.space.items() if not searched.when]
    sometimes = [key for key, searched in board.space.items() if searched.when]
    for key in always:
        table.add_column(escape(board.headings[key]), justify="right")
    if sometimes:
        table.add_column("further")
    for trial in board.trials:
        style = "bold green" if trial is board.leader else "dim" if board.score(trial) is None else ""
        values = board.values(trial)
        cells = [*_cells(board, trial), *(number(values.get(key)) for key in always)]
        if sometimes:
            own = short_names(key for key in sometimes if key in values)
            cells.append(" ".join(f"{name}={number(values[key])}" for key, name in own.items()))
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def conclusions(board: Leaderboard) -> list[str]:
    """The result in sentences: the winner against the untuned trial, and on the test split."""
    best, lines = board.best, []
    cost = [f"spent  {board.cost}"] if board.cost else []
    cost += [f"budget {board.budget}"] if board.budget else []
    if best is None:
        return [board.nothing_feasible or "No trial has a score yet.", *cost]
    if board.found_nothing:
        return [f"No trial found an object: the best {board.metric} is {board.score(best):.3f}.", *cost]
    gain = board.gain(best)
    won = "" if gain is None else f", {gain:+.3f} against the untuned trial"
    if board.leader is not board.baseline and board.score(board.baseline) == 0 and not board.is_lower_better:
        won = "; the untuned trial found nothing"
    if confirmed := board.confirmed_by(best):
        lines.append(
            f"best   trial {confirmed.trial.number}: {board.metric} {confirmed.text} over "
            f"{counted(len(confirmed.models), 'seed')}{won}"
        )
        lines.append(f"model  trial {best.number}, its best seed: {board.metric} {board.score(best):.3f}")
    else:
        lines.append(f"best   trial {best.number}: {board.metric} {board.score(best):.3f}{won}")
    if board.front_in_words:
        lines.append(f"front  {board.front_in_words}")
    lines += [f"note   {said}" for said in (board.standing, *board.not_confirmed, board.against_the_teacher) if said]
    if "test/iou" in best.metrics:
        lines.append(f"test   iou {best.metrics['test/iou']:.3f} {board.test_looks}")
    lines += [f"infeasible  trial {t.number}: {board.broken(t)}" for t in board.trials if t.broken]
    less = [t for t in board.trials if t.micro_batch and not t.broken]
    lines += [f"memory  trial {t.number}: {counted(t.micro_batch, 'image')} at once, in steps as asked" for t in less]
    if "val/mask_ap" in board.columns and (semantic := _semantic(board)):
        which = ", ".join(semantic)
        fix = "count its objects with `evaluate.post.instances: components`"
        lines.append(f"note   AP and PQ count objects one by one; {which} gives one region a class and image: {fix}")
    return lines + cost


def _semantic(board: Leaderboard) -> list[str]:
    """The families of the trials that do not tell objects of one class apart."""
    as_found = [t for t in board.trials if t.params.get("evaluate.post.instances", "as_found") == "as_found"]
    families = {str(t.params["model.family"]) for t in as_found if "model.family" in t.params}
    known = sorted(families & set(registry.names("models")))
    return [name for name in known if "instance" not in declaration(name).tasks]


def number(value: object) -> str:
    """A value as people write it: three digits, and an empty text for nothing."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(number, value)) if isinstance(value, list | tuple) else str(value)


def _cells(board: Leaderboard, trial: TrialRecord) -> list[str]:
    """What came of a trial."""
    gain, confirmed, chance = board.gain(trial), board.confirmed_by(trial), board.chance(trial)
    seeds = [
        f"{confirmed.text} ({len(confirmed.models)})" if confirmed else "",
        "" if chance is None else f"{100 * chance:.0f} %",
    ]
    return [
        f"{trial.number}{' untuned' if trial.is_baseline else ''}{' front' if trial in board.front else ''}",
        board.ended(trial),
        _score(board.score(trial)),
        *(seeds if board.confirmed else []),
        "" if gain is None else f"{gain:+.3f}",
        *(column.text(trial.metrics.get(name)) for name, column in board.columns.items()),
        str(trial.epochs),
        f"{trial.seconds:.0f}",
    ]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
