"""Names and values in the form that MLflow accepts, and back."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from segdist.core.escaping import MLFLOW
from segdist.core.redaction import redact, redact_all

_PARAM_LENGTH = 6000  # mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
_TAG_LENGTH = 8000  # MAX_TAG_VAL_LENGTH


def key(name: str) -> str:
    """A name as MLflow takes it for a metric, a parameter or a tag; two names never become one."""
    return MLFLOW.escape(name)


def name_of(key: str) -> str:
    """The name that was given to `key`."""
    return MLFLOW.unescape(key)


def param_text(value: object) -> str:
    """A parameter as text: JSON, but strings that could be nothing else stand without quotes; without secrets."""
    plain = value if isinstance(value, str) and not _is_json(value) else None
    text = plain if plain is not None else json.dumps(redact_all(value), default=str, ensure_ascii=False)
    return clip(redact(text), _PARAM_LENGTH)


def param_value(text: str) -> Any:
    """The value that `param_text` wrote; a text that was cut stays a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def tag_text(value: object) -> str:
    """A tag as text, without secrets."""
    return clip(redact(value if isinstance(value, str) else json.dumps(redact_all(value), default=str)), _TAG_LENGTH)


def clip(text: str, length: int) -> str:
    """The text, cut to a length with an ellipsis as its last character."""
    return text if len(text) <= length else text[: length - 1] + "…"


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as dotted keys: `{"train": {"lr": 1}}` becomes `{"train.lr": 1}`."""
    return dict(_leaves(values, prefix))


def finite(metrics: Mapping[str, object]) -> dict[str, float]:
    """The metrics that are finite numbers: a class absent everywhere has none, and MLflow would store 1.8e308."""
    return {
        name: float(value) for name, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)
    }


def _leaves(values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
