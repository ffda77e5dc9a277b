"""What `segdist diff` found, in the terminal and as a page."""

import base64
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.text import Text

from segdist.core.json_values import JsonObject
from segdist.core.terminal import Console
from segdist.core.text import counted
from segdist.pages.rendering import render
from segdist.pages.tables import number_text, plain_table

_SHOWN = 5
_COLUMNS = ("first", "second", "difference")


def verdict(found: JsonObject) -> str:
    """The result in a sentence."""
    names = found["first_model"], found["second_model"]
    if found["difference"] is None:
        return f"{found['metric']} is undefined on these images"
    interval = found["interval"]
    between = f", 95 % interval {interval[0]:+.3f} to {interval[1]:+.3f}" if interval else ""
    clear = f"{names[found['winner'] - 1]} is better" if found["winner"] else "the images do not tell which is better"
    return f"{found['metric']} {found['difference']:+.3f}{between}: {clear}"


def print_diff(found: JsonObject, console: RichConsole | None = None) -> None:
    """Print which model is better, by class, and the images that each wins most clearly.

    Args:
        found: `Comparison.to_json()`.
        console: where to print.
    """
    out = Console(console)
    out.print(f"[bold]{escape(found['first_model'])}[/bold] against [bold]{escape(found['second_model'])}[/bold]")
    for note in found["notes"]:
        out.print(f"note  {escape(note)}")
    out.print(escape(verdict(found)))
    out.print(f"{counted(found['images_won'], 'image')} won, {found['images_lost']} lost, of {found['images_total']}")
    table = plain_table("class", *_COLUMNS)
    for label, (first, second) in found["per_class"].items():
        table.add_row(Text(label), *_numbers(first, second))
    out.print(table)
    for title, images in (("won", found["images"][:_SHOWN]), ("lost", found["images"][::-1][:_SHOWN])):
        rows = [i for i in images if _is(title, found, i)]
        if rows:
            table = plain_table(f"images {title}", *_COLUMNS)
            for image in rows:
                table.add_row(Text(image["image_id"]), *_numbers(image["first"], image["second"]))
            out.print(table)


def write_diff(found: JsonObject, pictures: Mapping[str, Mapping[str, bytes]], path: Path) -> Path:
    """Write a self-contained page.

    Args:
        found: `Comparison.to_json()`.
        pictures: JPEG panels by image id, under "won" and "lost".
        path: the file to write.
    """
    values = {i["image_id"]: (i["first"], i["second"]) for i in found["images"]}
    galleries = {
        title: [
            {"image_id": name, "src": _data_uri(content), "first": values[name][0], "second": values[name][1]}
            for name, content in images.items()
        ]
        for title, images in pictures.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render("diff.html.jinja", found=found, verdict=verdict(found), galleries=galleries), "utf-8")
    return path


def _is(title: str, found: JsonObject, image: JsonObject) -> bool:
    if image["first"] is None or image["second"] is None:
        return False
    gain = (image["first"] - image["second"]) * (-1 if found["lower_is_better"] else 1)
    return bool(gain > 1e-9 if title == "won" else gain < -1e-9)


def _numbers(first: float | None, second: float | None) -> list[str]:
    both = first is not None and second is not None
    texts = [number_text(v) for v in (first, second)]
    return [*texts, f"{first - second:+.3f}" if both else "-"]  # type: ignore[operator]


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
