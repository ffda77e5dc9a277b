"""`segdist weights`: what published weights there are, which of them are here, and fetching them."""

from dataclasses import dataclass
from pathlib import Path

from segdist.core import registry
from segdist.core.errors import SpecError, did_you_mean
from segdist.core.json_values import JsonDict
from segdist.core.plugins import declaration
from segdist.core.published import PublishedWeights
from segdist.core.terminal import Console, Table, filling
from segdist.nets.weights import bytes_on_hub, from_hub, is_hub_copy_here


@dataclass(frozen=True)
class Known:
    """Published weights and the family they are of."""

    family: str
    weights: PublishedWeights

    @property
    def is_here(self) -> bool:
        """Whether they need not be fetched."""
        return is_hub_copy_here(self.weights.name) if self.weights.on_hub else self.weights.is_here

    @property
    def written(self) -> str:
        """How a sweep file asks for them, under `model` or `label.teacher`."""
        options = {**self.weights.options, self.weights.option: self.weights.name}
        return f"{self.family}: {{{', '.join(f'{option}: {value}' for option, value in options.items())}}}"

    @property
    def size(self) -> str:
        """For people; nobody is asked."""
        return f"{self.weights.size / 1e6:,.0f} MB" if self.weights.files else "as on the hub"

    @property
    def about(self) -> str:
        """What somebody wants to know who is asked whether to fetch them; the hub is asked how large they are there."""
        size = bytes_on_hub(self.weights.name) if self.weights.on_hub else 0
        shown = f"{size / 1e6:,.0f} MB" if size else self.size
        return f"{self.weights.name}: {shown}, licence: {self.weights.licence}, from {', '.join(self.weights.origins)}"

    def to_json(self) -> JsonDict:
        """All of it, for machines."""
        weights = self.weights
        return {
            "name": weights.name,
            "family": self.family,
            "options": dict(weights.options),
            "option": weights.option,
            "licence": weights.licence,
            "bytes": weights.size or None,
            "from": weights.origins,
            "files": [{"name": file.name, "bytes": file.size, "sha256": file.sha256} for file in weights.files],
            "here": self.is_here,
            "path": "" if weights.on_hub or not weights.is_here else str(weights.place),
        }


def known() -> list[Known]:
    """All published weights that the families declare; no network is asked."""
    return [Known(name, one) for name in registry.names("models") for one in declaration(name).published]


def find(name: str) -> Known:
    """Published weights by their name.

    Raises:
        SpecError: no family declares them.
    """
    found = {one.weights.name: one for one in known()}
    if name not in found:
        raise SpecError(f"There are no published weights `{name}`. {did_you_mean(name, found)}")
    return found[name]


def fetch(asked: Known) -> Path:
    """The file or folder with the weights; what is not here yet is fetched, with a bar in a terminal.

    Raises:
        WeightsError: they cannot be had.
        StorageError: the disk has no room for them.
    """
    weights = asked.weights
    if weights.on_hub:
        return from_hub(weights.name)
    with filling(weights.name, weights.size) as told:
        return weights.fetch(told)


def print_known() -> None:
    """The weights as a table in the terminal."""
    table = Table(box=None, padding=(0, 1))
    for column in ("name", "in a sweep file", "size", "licence", "from", "here"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for one in known():
        weights = one.weights
        here = "yes" if one.is_here else ""
        table.add_row(weights.name, one.written, one.size, weights.licence, "\n".join(weights.origins), here)
    Console().print(table)
