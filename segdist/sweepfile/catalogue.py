"""What model families there are, as a table; imports no torch."""

from rich.markup import escape

from segdist.core import registry
from segdist.core.json_values import JsonDict
from segdist.core.plugins import Family, declaration
from segdist.core.terminal import Console, Table


def families() -> list[JsonDict]:
    """Every family with what it declares, as JSON values, by name."""
    return [_described(name, declaration(name)) for name in registry.names("models")]


def print_families() -> None:
    """The families as a table in the terminal."""
    table = Table(show_lines=True, box=None, padding=(0, 1))
    for column in ("family", "tasks", "sizes", "weights", "losses", "adapters", "LoRA targets", "licence", "install"):
        table.add_column(column, overflow="fold", no_wrap=column == "family")
    for family in families():
        table.add_row(
            f"[bold]{family['family']}[/bold]",
            ", ".join(family["tasks"]),
            "\n".join(f"{size}: {what}" for size, what in family["sizes"].items()),
            "\n".join(family["published"]),
            ", ".join(f"{term} {weight:g}" for term, weight in family["losses"].items()),
            ", ".join(family["adapters"]),
            ", ".join(family["lora_targets"]),
            escape(family["licence"]),
            escape(family["install"]),
        )
    Console().print(table)


def _described(name: str, family: Family) -> JsonDict:
    distribution, _ = registry.distribution("models", name)
    return {
        "family": name,
        "tasks": list(family.tasks),
        "sizes": dict(family.sizes),
        "published": [weights.name for weights in family.published],
        "losses": dict(family.losses),
        "adapters": list(family.adapters),
        "lora_targets": list(family.lora_targets),
        "licence": family.licence,
        "onnx": bool(family.onnx(family.options.model_validate(family.debug))),
        "extra": family.extra,
        "distribution": distribution or "segdist",
        "install": _install(family, distribution),
    }


def _install(family: Family, distribution: str) -> str:
    """What brings a family and all that it needs; "" where it is all there with segdist."""
    wanted = [f"'segdist[{family.extra}]'"] if family.extra else []
    wanted += [distribution] if distribution else []
    return f"pip install {' '.join(wanted)}" if wanted else ""
