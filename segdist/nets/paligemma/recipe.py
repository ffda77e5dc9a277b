"""The file that says what a mask codec is trained on and how; read by `segdist paligemma train-codec`."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from segdist.core.bounded_yaml import load_yaml, read_yaml
from segdist.core.errors import SegdistError, SpecError
from segdist.core.spec import SourceSpec, Strict
from segdist.nets.paligemma.codec_training import CodecTraining


class CodecRecipe(Strict):
    """What a mask codec learns from."""

    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    """Data sets whose masks it learns: drawn scenes, your own."""
    held_out: tuple[SourceSpec, ...] = ()
    """Data sets that it is measured on afterwards; no mask of them is learned."""
    parts: int = Field(default=1, ge=0)
    """Random rectangles cut out of each mask and learned too: shapes of more kinds."""
    train: CodecTraining = CodecTraining()
    """How it is trained."""


def load_recipe(file: Path, overrides: Sequence[str] = ()) -> CodecRecipe:
    """A recipe from a YAML file.

    Args:
        file: the recipe.
        overrides: `key=value` with dotted keys, e.g. `train.minutes=5`.

    Raises:
        SpecError: there is no such file, it is no YAML, or a key or value is wrong.
    """
    try:
        content = read_yaml(str(file), error=SpecError)
    except SegdistError as error:
        raise SpecError(f"The recipe {file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SpecError(f"The recipe {file} must hold keys and values, but holds {type(content).__name__}.")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise SpecError(f"An override must read `key=value`, but got `{override}`.")
        *parents, leaf = key.split(".")
        node = content
        for name in parents:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise SpecError(f"`{key}` is no key: `{name}` holds a single value.")
        node[leaf] = load_yaml(value, key, error=SpecError)
    try:
        return CodecRecipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"{file}: `{'.'.join(map(str, first['loc']))}`: {first['msg']}") from error
