"""Label policies that a sweep searches: every combination of the values of its `label.*` keys in `space`.

They must be listed, not drawn: each policy labels the data set once, before the first trial. A value that is no
plain number or text, such as a whole prompt with its options, stands in the search and in MLflow as JSON.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from segdist.core.spec import Range, SweepSpec, digest

PREFIX = "label."
MOST = 32
"""Policies of one sweep: each costs a pass of the teacher over the data."""


@dataclass(frozen=True)
class Policy:
    """One combination.

    Attributes:
        values: of the searched label keys that apply, as the search holds them; empty where none is searched.
        spec: the sweep with these values in place.
    """

    values: Mapping[str, Any]
    spec: SweepSpec

    @property
    def name(self) -> str:
        """Names the policy within its sweep."""
        return policy_name(self.values)

    @property
    def title(self) -> str:
        """The policy in words: its searched values, or what a plain sweep labels by."""
        assert self.spec.label is not None
        values = {key.removeprefix(PREFIX): value for key, value in self.values.items()}
        if values:
            return ", ".join(f"{key}={value}" for key, value in values.items())
        return self.spec.label.in_words


def policies(spec: SweepSpec) -> Iterator[Policy]:
    """Every policy of a sweep that labels, the file's own values first where they are among the choices.

    Raises:
        ValidationError: values do not go together.
    """
    for chosen in sorted(_combinations(spec), key=lambda c: c != own_values(spec)):
        values = {key: _decoded(spec.space[key], value) for key, value in chosen.items()}
        yield Policy(chosen, spec.override(values) if values else spec)


def searched(spec: SweepSpec) -> dict[str, Range]:
    """The label keys in `space`, each after those that its `when` names."""
    ranges = {key: range_ for key, range_ in spec.space.items() if key.startswith(PREFIX)}
    order = TopologicalSorter({key: sorted(set(ranges[key].when) & set(ranges)) for key in sorted(ranges)})
    return {key: ranges[key] for key in order.static_order()}


def own_values(spec: SweepSpec) -> dict[str, object]:
    """The file's own value of each searched label key that applies, or the first choice where it is none of them."""
    content = {"label": spec.label.model_dump(mode="json")} if spec.label else {}
    chosen: dict[str, object] = {}
    for key, range_ in searched(spec).items():
        if range_.applies(chosen):
            own = encoded(_at(content, key))
            known = [encoded(choice) for choice in range_.choices]
            chosen[key] = own if own in known else known[0]
    return chosen


def policy_name(config: Mapping[str, object]) -> str:
    """Names the policy of a trial by the label keys among its values."""
    return digest({key: value for key, value in config.items() if key.startswith(PREFIX)})


def run_values(config: Mapping[str, object]) -> dict[str, object]:
    """The values of a trial that belong to its run, not to its labels."""
    return {key: value for key, value in config.items() if not key.startswith(PREFIX)}


def encoded(value: object) -> Any:
    """A choice as the search holds it: plain values as they are, others as JSON text."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list | tuple) else value


def _combinations(spec: SweepSpec) -> list[dict[str, object]]:
    found: list[dict[str, Any]] = [{}]
    for key, range_ in searched(spec).items():
        found = [
            {**chosen, key: encoded(value)} if range_.applies(chosen) else chosen
            for chosen in found
            for value in (range_.choices if range_.applies(chosen) else (None,))
        ]
    return found


def _decoded(range_: Range, value: object) -> object:
    return next(choice for choice in range_.choices if encoded(choice) == value)


def _at(content: object, key: str) -> object:
    for name in key.split("."):
        if isinstance(content, list):
            content = content[int(name)] if int(name) < len(content) else None
        else:
            content = content.get(name) if isinstance(content, Mapping) else None
    return content
