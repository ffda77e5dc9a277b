"""Keys and values of a sweep file that have new names.

The old names work for one release: in files and on the command line with a warning, and in what older runs and models
recorded without one. To take an old name away, remove its line here.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

KEYS: Mapping[str, str] = {
    "label.most_actors": "label.max_actors",
    "train.adapter.beside": "train.adapter.modules_to_save",
    "train.start": "train.init_from",
}
"""New names by old ones; a key stays in the mapping that it was in."""
_USUAL = {"evaluate.boundary_width": 0.02, "evaluate.post.fill_holes": 0.0, "evaluate.post.min_area": 0.0}
"""What a key that was split meant where nothing was said."""
SPLIT: Mapping[str, tuple[str, str, float | None]] = {
    "evaluate.boundary_width": ("evaluate.boundary_width_fraction", "evaluate.boundary_width_pixels", None),
    "evaluate.post.fill_holes": ("evaluate.post.fill_holes_fraction", "evaluate.post.fill_holes_pixels", 0.0),
    "evaluate.post.min_area": ("evaluate.post.min_area_fraction", "evaluate.post.min_area_pixels", 0.0),
}
"""Keys whose unit changed at 1: that of a fraction, that of pixels, and what switches either off."""
_SPLIT_NAMES = [(old, new) for old, (*both, _) in SPLIT.items() for new in both]
LATER: Mapping[str, object] = {
    "evaluate.post.instances": "as_found",
    "evaluate.post.stuff": [],
    "label.policy": "vote",
    "label.rounds": 0,
    "label.student": None,
    "label.teachers": [],
    "train.ema": None,
    "train.layer_decay": 1.0,
    "train.sampling": None,
    "train.compile": False,
}
"""Keys that came after 1, with the value that does what was done without them: then they are in no fingerprint."""
_AUGMENTATIONS = {"tilt": "perspective", "turn": "rotate"}
VALUES: Mapping[str, Mapping[str, str]] = {
    "evaluate.tta": {"turn": "rotate_180"},
    "train.augment": _AUGMENTATIONS,
    "train.augment_classes": _AUGMENTATIONS,
    "train.augment_groups": _AUGMENTATIONS,
}
"""New names of values, by key."""
_FACTORS = ("train.accumulate", "train.gradient_accumulation_steps")
"""Keys that `train.batch_size`, then of one worker and pass, was multiplied by, as by `resources.workers`."""
ReportOldName = Callable[[tuple[str, ...], str], None]
"""Takes the path of an old name, and what it is called now, in words."""
_REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)\}")


class RenamedKeyWarning(FutureWarning):
    """A sweep file or a command line uses a name that stops working with the next release."""


def warn(place: str, message: str) -> None:
    """Warn of an old name.

    Args:
        place: where it stands, e.g. "sweep.yaml:7".
        message: what it is called now.
    """
    warnings.warn(f"{place}: {message}; the old name stops working with the next release", RenamedKeyWarning, 2)


def current(
    content: Mapping[str, object], *, under: str = "", report: ReportOldName = lambda *_: None
) -> dict[str, Any]:
    """Nested keys and values under their names of today, those of `space` and references by `${...}` too.

    Args:
        content: of a sweep or a run, or of a part of one; left as it is.
        under: the dotted key of the part, e.g. "evaluate".
        report: is called with every old name.

    Raises:
        ValueError: an old name stands beside its new one, or does not say which of two new ones is meant.
    """
    copy: dict[str, Any] = _copied(content)
    prefix = f"{under}." if under else ""
    _multiply_batch(copy, prefix, report)
    for old in (name for name in (*KEYS, *SPLIT) if name.startswith(prefix)):
        *parents, leaf = old.removeprefix(prefix).split(".")
        node = _at(copy, parents)
        if not isinstance(node, dict) or leaf not in node:
            continue
        new = current_key(old, [node[leaf]])
        if (new_leaf := new.rpartition(".")[2]) in node:
            raise ValueError(f"`{old}` is the old name of `{new}`, which is there too: remove the old one")
        node[new_leaf] = node.pop(leaf)
        report((*parents, leaf), f"`{old}` is now `{new}`")
    for key, names in VALUES.items():
        *parents, leaf = key.removeprefix(prefix).split(".")
        node = _at(copy, parents)
        if key.startswith(prefix) and isinstance(node, dict) and leaf in node:
            node[leaf] = _revalued(node[leaf], names, partial(_report_value, report, (*parents, leaf)))
    if not under and isinstance(copy.get("space"), dict):
        copy["space"] = dict(_ranges(copy["space"], report))
    return copy if under else _with_references(copy, copy, ())


def current_values(values: Mapping[str, object]) -> dict[str, Any]:
    """The same for dotted keys, e.g. the parameters of a run.

    Raises:
        ValueError: an old name stands beside its new one.
    """
    found: dict[str, Any] = {}
    factors = [key for key in _FACTORS if key in values]
    if factors:
        size = _whole_batch(factors[0], values[factors[0]], values.get("train.batch_size"))
        values = {key: value for key, value in values.items() if key not in factors}
        values = values if size is None else {**values, "train.batch_size": size}
    for key, value in values.items():
        new = current_key(key, [value])
        if new in found or (new != key and new in values):
            raise ValueError(f"`{new}` is given twice, once by its old name")
        found[new] = current_value(key, value)
        if key in SPLIT:
            *both, off = SPLIT[key]
            found |= {twin: off for twin in both if twin != new}
    return found


def current_key(key: str, values: Iterable[object] = ()) -> str:
    """Today's name of a dotted key, or of one inside it.

    Args:
        key: old or new.
        values: that it has, from which follows what a key that was split means.

    Raises:
        ValueError: the values are of both units, or not known yet.
    """
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    if key not in SPLIT:
        return key
    fraction, pixels, _ = SPLIT[key]
    values = list(values)
    sizes = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and v]
    if any(isinstance(v, str) and "${" in v for v in values) or len({size >= 1 for size in sizes}) > 1:
        raise ValueError(f"`{key}` is two keys now: write `{fraction}` for a fraction or `{pixels}` for pixels")
    return pixels if sizes and sizes[0] >= 1 else fraction


def current_value(key: str, value: object) -> Any:
    """The value of a dotted key, old or new, under its name of today."""
    names = next((names for name, names in VALUES.items() if f"{key}.".startswith(f"{name}.")), {})
    return _revalued(value, names, lambda *_: None)


def without_later(content: Mapping[str, object]) -> dict[str, Any]:
    """Without keys that came later, where they change nothing, with one that went: what was asked before is the same.

    Args:
        content: a whole run or sweep, under the names of today.
    """
    copy: dict[str, object] = _copied(content)
    for key, as_before in LATER.items():
        *parents, leaf = key.split(".")
        node = _at(copy, parents)
        if isinstance(node, dict) and leaf in node and node[leaf] == as_before:
            del node[leaf]
    train = copy.get("train")
    if isinstance(train, dict) and "batch_size" in train:
        train["gradient_accumulation_steps"] = 1  # a key that there was, without which the batch is a step's
    return copy


def as_first_recorded(content: Mapping[str, object]) -> dict[str, Any]:
    """Nested keys and values under their oldest names: fingerprints are made of these, so they outlive a new name.

    Args:
        content: a whole run or sweep, under the names of today.
    """
    copy = without_later(content)
    for old, new in KEYS.items():
        *parents, leaf = new.split(".")
        node = _at(copy, parents)
        if isinstance(node, dict) and leaf in node:
            node[old.rpartition(".")[2]] = node.pop(leaf)
    if isinstance(train := copy.get("train"), dict) and "gradient_accumulation_steps" in train:
        train["accumulate"] = train.pop("gradient_accumulation_steps")
    for old, (*both, off) in SPLIT.items():
        *parents, leaf = old.split(".")
        node = _at(copy, parents)
        sizes = {name: node.get(name.rpartition(".")[2], off) for name in both} if isinstance(node, dict) else {}
        used = [size for size in sizes.values() if size != off]
        if sizes and len(used) < 2:
            for name in both:
                node.pop(name.rpartition(".")[2], None)
            node[leaf] = used[0] if used else _USUAL[old]
    for key, names in VALUES.items():
        *parents, leaf = key.split(".")
        node = _at(copy, parents)
        if isinstance(node, dict) and leaf in node:
            node[leaf] = _revalued(node[leaf], {new: old for old, new in names.items()}, lambda *_: None)
    if isinstance(copy.get("space"), dict):
        copy["space"] = {_first_key(key): _first_range(key, range_) for key, range_ in copy["space"].items()}
    return copy


def _multiply_batch(copy: dict[str, object], prefix: str, report: ReportOldName) -> None:
    """Make the batch of a worker and pass that of a step, where a key says that it is the former."""
    for old in _FACTORS:
        *parents, leaf = old.removeprefix(prefix).split(".")
        node = _at(copy, parents)
        if not old.startswith(prefix) or not isinstance(node, dict) or leaf not in node:
            continue
        before, workers = node.get("batch_size"), _at(copy, ("resources", "workers")) or 1
        size = _whole_batch(old, node[leaf], before if workers == 1 or before is None else before * workers)
        del node[leaf]
        if size is not None:
            node["batch_size"] = size
            resources = copy.get("resources", {})
            if not prefix and isinstance(resources, dict):
                copy["resources"] = {"micro_batch": before, **resources}
        report((*parents, leaf), f"`{old}` is part of `train.batch_size` now, the images of a step of the optimiser")


def _whole_batch(old: str, factor: object, batch: object) -> int | None:
    """Images of a step; None where the batch size is not given and stays what it is.

    Raises:
        ValueError: the numbers are not there to be multiplied.
    """
    if batch is None and factor == 1:
        return None
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1 or not isinstance(batch, int):
        raise ValueError(
            f"`{old}` is gone: write `train.batch_size` for the images of a step of the optimiser, over all workers "
            "and passes, and `resources.micro_batch` for those that a worker computes at once"
        )
    return batch * factor


def _first_key(key: str) -> str:
    olds = {**{new: old for old, new in KEYS.items()}, **{new: old for old, new in _SPLIT_NAMES}}
    return olds.get(key, key)


def _first_range(key: str, range_: Any) -> Any:
    names = next((names for of, names in VALUES.items() if f"{key}.".startswith(f"{of}.")), {})
    back = {new: old for old, new in names.items()}
    choices = [_revalued(choice, back, lambda *_: None) for choice in range_["choices"]]
    return {**range_, "choices": choices, "when": {_first_key(name): value for name, value in range_["when"].items()}}


def _ranges(space: Mapping[str, Any], report: ReportOldName) -> Iterable[tuple[str, object]]:
    seen: set[str] = set()
    for key, range_ in space.items():
        written = range_ if isinstance(range_, Mapping) else {"choices": range_}
        choices = written.get("choices")
        listed = list(choices) if isinstance(choices, list | tuple) else []
        new = current_key(str(key), [*listed, written.get("low"), written.get("high")])
        if new in seen or (new != key and new in space):
            raise ValueError(f"`space`: `{key}` is the old name of `{new}`, which is there too: remove the old one")
        seen.add(new)
        if new != key:
            report(("space", key), f"`{key}` is now `{new}`")
        changed = dict(written)
        if listed:
            changed["choices"] = [current_value(key, choice) for choice in listed]
            if changed["choices"] != listed:
                report(("space", key), f"values of `{new}` have new names: {changed['choices']}")
        if isinstance(written.get("when"), Mapping):
            changed["when"] = current_values(written["when"])
            for old, now in zip(written["when"], changed["when"], strict=True):
                if old != now:
                    report(("space", key, "when", old), f"`{old}` is now `{now}`")
        yield new, (changed if isinstance(range_, Mapping) else changed["choices"] if listed else range_)


def _revalued(value: object, names: Mapping[str, str], report: Callable[[str, str], None]) -> Any:
    if isinstance(value, str):
        if value.startswith("[") and names:  # a list as a search holds it
            try:
                return json.dumps(_revalued(json.loads(value), names, report))
            except json.JSONDecodeError:
                return value
        if value in names:
            report(value, names[value])
        return names.get(value, value)
    if isinstance(value, list | tuple):
        return [_revalued(one, names, report) for one in value] if names else value
    return {key: _revalued(one, names, report) for key, one in value.items()} if isinstance(value, dict) else value


def _with_references(value: object, whole: Mapping[str, object], keys: tuple[object, ...]) -> Any:
    """The value with `${old.name}` as `${new.name}`, also where it counts from the key it stands under."""
    if isinstance(value, dict):
        return {key: _with_references(one, whole, (*keys, key)) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_references(one, whole, (*keys, k)) for k, one in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def renamed(found: re.Match[str]) -> str:
        up, name = len(found[1]), found[2]
        old = ".".join([*map(str, keys[: len(keys) - up]), name]) if up else name
        new = next((n for n in SPLIT.get(old, ())[:2] if _at(whole, n.split(".")) is not None), current_key(old))
        return found[0] if new == old else f"${{{new}}}"

    return _REFERENCE.sub(renamed, value)


def _report_value(report: ReportOldName, keys: tuple[str, ...], old: str, new: str) -> None:
    report(keys, f"`{old}` is now `{new}`")


def _at(content: object, keys: Iterable[str]) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _copied(value: object) -> Any:
    return {key: _copied(one) for key, one in value.items()} if isinstance(value, Mapping) else value
