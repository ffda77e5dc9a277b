"""What to merge, from a YAML file: the `data` of a sweep, alone or in a sweep file."""

from collections.abc import Mapping
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from segdist.converting.convert import checked_options
from segdist.core.errors import SpecError
from segdist.core.plugins import dataset_format
from segdist.core.spec import DataSpec
from segdist.sweepfile.composition import ENVIRONMENT, filled_in, opened
from segdist.sweepfile.loading import problems_of


def load_data(path: str) -> DataSpec:
    """The checked `data` of a file; `${...}` refers to its own keys and the environment, as in a sweep file.

    Raises:
        SpecError: the file is not there, is no YAML, or a key in it is wrong.
    """
    file = Path(path)
    if not file.exists():
        raise SpecError(f"There is no {path}. Write a YAML file with `sources:`, one entry a folder.")
    try:
        content = filled_in(opened(file)[1], path)
    except OmegaConfBaseException as error:
        raise SpecError(f"{path} cannot be composed: {error}") from error
    return data_spec(content.get("data", {key: v for key, v in content.items() if key != ENVIRONMENT}), path)


def data_spec(content: Mapping[str, object], place: str) -> DataSpec:
    """Checked keys, each source's own options too.

    Raises:
        SpecError: one line for each problem, with the nearest right key.
    """
    try:
        data = DataSpec.model_validate(content)
    except ValidationError as error:
        lines = [f"{place}: {'.'.join(p.keys)}: {p.message}" for p in problems_of(error, DataSpec)]
        raise SpecError("\n".join(lines)) from None
    for number, source in enumerate(data.sources):
        what = f"source {number} ({source.format})"
        checked_options(dataset_format(source.format).Options, source.options(), what=what)
    return data
