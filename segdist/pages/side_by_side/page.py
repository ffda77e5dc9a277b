"""Writes the page: text and numbers in it, and beside it one photograph and one file of all trials' maps an image.

A browser that opens a page from a disk fetches no file for it, but it does run scripts that lie beside it, so what is
not always needed comes as scripts. Each is read when its image comes into view.
"""

import json
import math
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.resources import files

from markupsafe import Markup

from segdist.core import storage
from segdist.core.panels import ERRORS, colour, encode_webp
from segdist.core.panels.drawing import CROWD
from segdist.core.records import LabelledImages
from segdist.metrics.contributions import Contributions
from segdist.metrics.counting import Numbers
from segdist.pages.base import shrunk
from segdist.pages.leaderboard import Leaderboard, number, shown_as
from segdist.pages.rendering import render
from segdist.pages.side_by_side.disagreement import LEVELS, disagreement
from segdist.pages.side_by_side.label_maps import LabelMap, true_map
from segdist.reading.examples import decode_image
from segdist.tracking import TrialRecord

FOLDER, PAGE = "side_by_side", "index.html"
"""Where it lies beside the report."""
SCORES = "scores.js"
_OF_AN_IMAGE = re.compile(r"/((?:maps|photos)/\d{5}\.(?:js|jpg|webp))$")
_PHOTO = 640
"""Pixels of a photograph's longest side."""
_QUALITY = 80
_STYLES = ("style.css", "side_by_side/page.css")
_SCRIPTS = tuple(
    f"side_by_side/{name}.js" for name in ("strict", "data", "state", "drawing", "grid", "one", "pairs", "controls")
)


@dataclass(frozen=True)
class Column:
    """One trial.

    Attributes:
        trial: as recorded.
        contributions: of every validation image.
        maps: what it found in each image that is shown, in order.
    """

    trial: TrialRecord
    contributions: Contributions
    maps: Sequence[LabelMap]


@dataclass(frozen=True)
class ShownImages:
    """The images of the page.

    Attributes:
        rows: all validation images with what is true of them.
        places: of those that are shown, in `rows`.
        classes: the class names in order.
    """

    rows: LabelledImages
    places: Sequence[int]
    classes: Sequence[str]


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        uri: of the page.
        page_bytes: of what is read when it opens.
        total_bytes: of all files together.
    """

    uri: str
    page_bytes: int
    total_bytes: int


def write_side_by_side(
    folder: str,
    board: Leaderboard,
    columns: Sequence[Column],
    images: ShownImages,
    *,
    metric: str,
    notes: Sequence[str] = (),
    report: str = "",
) -> Written:
    """Write the page of a sweep; of an earlier one in its folder, files of images that are not shown are removed.

    Args:
        folder: of its own, or a prefix; made where it is not there.
        board: the sweep.
        columns: its trials, best first; none writes a page that says why.
        images: what they are shown on.
        metric: of their contributions, without the split's name.
        notes: what is missing, in sentences.
        report: where the sweep's report lies, from the folder; "" without.
    """
    before = [entry.uri for entry in storage.find(folder)]
    sizes: dict[str, int] = {}
    write = partial(_write, folder, sizes)
    shown = [
        _write_image(write, name, place, columns, images) for name, place in enumerate(images.places if columns else ())
    ]
    write(SCORES, f"segdistScores({json.dumps(_scores(columns, images.places))})".encode())
    write(PAGE, _page(board, columns, images, shown, metric=metric, notes=notes, report=report).encode())
    if any(uri.endswith(f"/{SCORES}") for uri in before):
        for uri in before:
            if (known := _OF_AN_IMAGE.search(uri)) and known.group(1) not in sizes:
                storage.remove(uri)
    return Written(storage.join(folder, PAGE), sizes[PAGE] + sizes[SCORES], sum(sizes.values()))


def _write(folder: str, sizes: dict[str, int], name: str, content: bytes) -> None:
    storage.write_atomic(storage.join(folder, *name.split("/")), content)
    sizes[name] = len(content)


def _write_image(
    write: Callable[[str, bytes], None], name: int, place: int, columns: Sequence[Column], images: ShownImages
) -> dict[str, object]:
    """Write the photograph and the maps of one image; what the page says of it."""
    sample, image_bytes = images.rows[place]
    photo_HWC = shrunk(decode_image(image_bytes, longest=_PHOTO, name=sample.image_id), _PHOTO)
    truth, found = true_map(sample.instances, sample.size_hw, images.classes), [c.maps[name] for c in columns]
    between = disagreement(found)
    squeezed = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)  # no header: what browsers call deflate-raw
    maps = squeezed.compress(b"".join(m.packed for m in (truth, *found, between.where))) + squeezed.flush()
    write(f"photos/{name:05d}.webp", encode_webp(photo_HWC, quality=_QUALITY))
    write(f"maps/{name:05d}.js", f'segdistRow({name},"{b64encode(maps).decode()}")'.encode())
    return {
        "id": sample.image_id,
        "size": list(truth.size_hw),
        "disagreement": round(between.value, 5),
        "unknown": bool((truth.codes_K > len(images.classes)).any()),
    }


def _scores(columns: Sequence[Column], places: Sequence[int]) -> list[dict[str, str]]:
    """Of each trial in base64: its numbers of the images that are shown, and all its resamplings."""
    found = []
    for column in columns:
        c, shown = column.contributions, list(places)
        found.append(
            {
                "single": _floats(c.single_N[shown]),
                "influence": _floats(c.influence_N[shown]),
                "resampled": _floats(c.resampled_R),
            }
        )
    return found


def _floats(values: Numbers) -> str:
    return b64encode(values.astype("<f4").tobytes()).decode()


def _page(
    board: Leaderboard,
    columns: Sequence[Column],
    images: ShownImages,
    shown: Sequence[Mapping[str, object]],
    *,
    metric: str,
    notes: Sequence[str],
    report: str,
) -> str:
    how = shown_as(f"val/{metric}")
    script = _joined(_SCRIPTS)
    shades = (*ERRORS.items(), ("nobody knows", CROWD))
    seldom = {"taken for another class": len(images.classes) > 1, "nobody knows": any(one["unknown"] for one in shown)}
    data = {
        "metric": how.heading,
        "lowerIsBetter": how.lower_is_better,
        "classes": [{"name": name, "rgb": colour(k)} for k, name in enumerate(images.classes)],
        "errors": [{"name": name, "rgb": shade, "shown": seldom.get(name, True)} for name, shade in shades],
        "levels": LEVELS,
        "total": len(images.rows),
        "images": shown,
        "trials": [_described(board, column) for column in columns],
    }
    return render(
        "side_by_side.html.jinja",
        board=board,
        best=board.winner,
        columns=columns,
        total=len(images.rows),
        metric=how.heading,
        changed=_changed(board),
        notes=notes,
        report=report,
        data=data,
        data_text=_embedded(data),
        script=script,
        style=_joined(_STYLES),
        policy=_policy(script),
    )


def _policy(script: str) -> str:
    """What the page may load: itself, and what lies beside it."""
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' file: 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
    )


def _joined(names: Sequence[str]) -> Markup:
    """Files of this package, to stand in the page as they are."""
    folder = files("segdist.pages").joinpath("templates")
    return Markup("\n").join(
        Markup(folder.joinpath(*name.split("/")).read_text("utf-8"))  # noqa: S704 - our own scripts and styles
        for name in names
    )


def _embedded(data: Mapping[str, object]) -> Markup:
    """JSON for a page: no tag can begin in it."""
    return Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c"))  # noqa: S704 - no `<` is left


def _described(board: Leaderboard, column: Column) -> dict[str, object]:
    trial = column.trial
    values = _values(board, trial)
    overall = column.contributions.overall
    first = next((t.number for t in board.trials if t.trial_key == trial.repeats), None)
    return {
        "number": trial.number,
        "winner": board.winner is not None and trial is board.winner,
        "untuned": trial.is_baseline,
        "repeats": first if trial.repeats else None,
        "overall": None if math.isnan(overall) else overall,
        "values": values,
        "said": ", ".join(_said(board, trial)),
    }


def _said(board: Leaderboard, trial: TrialRecord) -> Iterator[str]:
    """Its values in a line: words by themselves, numbers with their names."""
    for key, value in board.values(trial).items():
        yield number(value) if isinstance(value, str) else f"{board.headings[key]} {number(value)}"


def _values(board: Leaderboard, trial: TrialRecord) -> dict[str, str]:
    """What the search chose, by short names."""
    return {board.headings[key]: number(value) for key, value in board.values(trial).items()}


def _changed(board: Leaderboard) -> list[tuple[str, str, str]]:
    """Each searched key in which the winner differs from the untuned trial, with the values of both."""
    if board.leader is None or board.baseline is None or board.winner is None:
        return []
    before, after = (_values(board, trial) for trial in (board.baseline, board.leader))
    keys = dict.fromkeys((*before, *after))
    return [(key, before.get(key, ""), after.get(key, "")) for key in keys if before.get(key) != after.get(key)]
