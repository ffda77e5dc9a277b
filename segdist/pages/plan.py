"""What a sweep was predicted to take, beside what it took."""

from segdist.core.json_values import JsonObject

PLAN = "plan.json"
"""The file of a sweep's run with both; a sweep that nobody planned has none."""


def plan_rows(found: JsonObject) -> list[tuple[str, str, str]]:
    """What, predicted, and came: of each thing that was predicted; empty where nothing was."""
    return [
        (one["what"], one["said"][0], f"{one['said'][1]} ({100 * (one['actual'] / one['predicted'] - 1):+.0f} %)")
        for one in found.get("rows", [])
    ]
