"""The search space as an Optuna define-by-run function, and the trials that come before the sampler's."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from segdist.core.plugins import declaration
from segdist.core.spec import Range, SweepSpec
from segdist.sweepfile import label_policies
from segdist.sweepfile.grid import conditions_first


@dataclass(frozen=True)
class Space:
    """Suggests a value for each searched key whose `when` holds."""

    ranges: Mapping[str, Range]

    def __call__(self, trial: object) -> None:
        """Ask an Optuna trial for its values."""
        chosen: dict[str, Any] = {}
        for key in conditions_first(self.ranges):
            if self.ranges[key].applies(chosen):
                chosen[key] = _suggest(trial, key, self.ranges[key])


def baseline(spec: SweepSpec, fixed: Mapping[str, object] = MappingProxyType({})) -> dict[str, object]:
    """The first trial: the sweep file's own values, moved to the nearest value the ranges hold.

    Args:
        spec: the sweep.
        fixed: values of some keys that take the place of the file's own.
    """
    chosen: dict[str, Any] = {}
    content, labels = spec.run.model_dump(mode="json"), label_policies.own_values(spec)
    for key in conditions_first(spec.space):
        range_ = spec.space[key]
        if range_.applies(chosen):
            if key in labels:
                chosen[key] = label_policies.encoded(fixed[key]) if key in fixed else labels[key]
                continue
            family = chosen.get("model.family", spec.model.family)
            chosen[key] = _nearest(range_, fixed[key] if key in fixed else _value(content, key, family=family))
    return chosen


def first_trials(spec: SweepSpec) -> list[dict[str, object]]:
    """What is tried before the sampler is asked: the baseline, then the other values of `search.try_each`."""
    first, key = baseline(spec), spec.search.try_each
    others = [baseline(spec, {key: value}) for value in spec.space[key].choices] if key else []
    return [first, *(trial for trial in others if trial != first)]


def nearest_trial(spec: SweepSpec, values: Mapping[str, object]) -> dict[str, object] | None:
    """The trial that comes nearest to one of another sweep; None where one of its choices is gone.

    Keys that are new have the file's own value, numbers outside a range the nearest in it.
    """
    fixed: dict[str, object] = {}
    for key, value in values.items():
        known = [choice for choice in spec.space[key].choices if label_policies.encoded(choice) == value]
        if spec.space[key].choices and not known:
            return None
        fixed[key] = known[0] if known else value
    return baseline(spec, fixed)


def can_tell(ranges: Mapping[str, Range], values: Mapping[str, object]) -> bool:
    """Whether these values say something about a space: they are of each key that applies, and each choice is one.

    Numbers may lie outside a range.
    """
    applying = {key for key, range_ in ranges.items() if range_.applies(values)}
    return applying == values.keys() and all(_is_of_kind(ranges[key], value) for key, value in values.items())


def _is_of_kind(range_: Range, value: object) -> bool:
    if range_.choices:
        return value in [label_policies.encoded(choice) for choice in range_.choices]
    return isinstance(value, int | float) and not (range_.log and value <= 0)


def _suggest(trial: Any, key: str, range_: Range) -> Any:
    if range_.choices:
        return trial.suggest_categorical(key, [label_policies.encoded(choice) for choice in range_.choices])
    if range_.is_integer:
        return trial.suggest_int(key, range_.low, range_.high, step=range_.step or 1, log=range_.log)
    return trial.suggest_float(key, range_.low, range_.high, step=range_.step, log=range_.log)


def _value(content: Mapping[str, object], key: str, *, family: str) -> Any:
    """The sweep's own value of a dotted key; a family's default where the file leaves an option or loss out."""
    node: object = content
    for name in key.split("."):
        if isinstance(node, list):  # e.g. the second of `train.phases`
            node = node[int(name)]
            continue
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if node is not None else _declared_default(key, family)


def _declared_default(key: str, family: str) -> Any:

    first, _, rest = key.partition(".")
    if first == "model":
        owner, _, option = rest.partition(".")
        return declaration(owner).options.model_fields[option].default
    return declaration(family).losses.get(key.removeprefix("train.loss."))


def _nearest(range_: Range, value: object) -> Any:
    if range_.choices:
        return label_policies.encoded(value if value in range_.choices else range_.choices[0])
    assert range_.low is not None
    assert range_.high is not None
    if not isinstance(value, int | float):
        return range_.low
    clipped = min(max(value, range_.low), range_.high)
    if range_.step:
        clipped = range_.low + round((clipped - range_.low) / range_.step) * range_.step
    return round(clipped) if range_.is_integer else float(clipped)
