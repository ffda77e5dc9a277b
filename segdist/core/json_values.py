"""Types of JSON of our own making: reports, summaries and artefacts whose keys their writer fixes.

mypy does not look inside; a test counts the uses with those of `Any`. What comes from outside is an `object` until it
has been looked at.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = Mapping[str, Any]
"""A JSON object that is read by its keys."""
JsonDict: TypeAlias = dict[str, Any]
"""A JSON object that is made."""
