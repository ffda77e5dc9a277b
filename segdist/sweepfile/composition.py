"""One mapping out of a YAML file, the files that its `defaults` name, and `key=value` from the command line.

The parts are put together by Hydra, `${...}` is filled in by OmegaConf. Both can do more than a sweep file needs: read
any file and environment variable, import packages, and grow without bound. What is allowed is decided here: files in
the folder of the sweep file, keys of the file itself, and environment variables that it declares.
"""

import math
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl  # `hydra.compose` would keep global state and plug-ins
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segdist.core import renamed_keys
from segdist.core.bounded_yaml import load_yaml, yaml_bytes
from segdist.core.errors import SpecError, did_you_mean
from segdist.core.redaction import holds_credentials, names_secret, redact, without_credentials
from segdist.core.spec import Range, SweepSpec
from segdist.core.text import decode_text

Keys = tuple[str | int, ...]

ENVIRONMENT = "environment"
"""The key that lists the environment variables a file may read."""
ALWAYS = ("HOME", "SEGDIST_STORAGE")
"""Variables that every file may read."""
_PRIMARY = "the_sweep_file"
_MOST_NODES = 10_000
_MOST_FILES = 100
_MOST_CHARACTERS = 2_000_000
_LONGEST_TEXT = 10_000
_LONGEST_WITH_REFERENCES = 1_000
_MOST_STEPS = 100
_TOO_MANY_STEPS = f"`${{...}}` must not lead back to its own key, or over more than {_MOST_STEPS} others"
_INNERMOST = re.compile(r"\$\{([^{}]*)\}")
_KEY = re.compile(r"\.*[\w-]+(?:\.[\w-]+|\[[\w-]+\])*")
_VARIABLE = re.compile(r"oc\.env:\s*(\w+)\s*(?:,.*)?", re.DOTALL)
_FILLED_IN_ARE = "only `${key}` and `${oc.env:NAME}` are filled in"
_FILLED_IN = "\0"  # no YAML and no command line can hold it


def compose(
    path: Path, overrides: Sequence[str] = (), *, old_name: renamed_keys.ReportOldName = lambda *_: None
) -> dict[str, Any]:
    """The content of a sweep file with everything filled in, under the names of today, not checked yet.

    Args:
        path: a YAML file; config groups are folders beside it.
        overrides: `key=value` in Hydra's grammar. `key=value` sets the key to that value, a mapping too; `++key={...}`
            adds to the mapping that is there; `+key=value` sets a key that is not there; `~key` removes it.
        old_name: is called with every key of the files that has a new name; of those in `overrides` a warning tells.

    Raises:
        SpecError: a file or an override is wrong, or asks for what it may not have.
    """
    if not path.is_file():
        raise SpecError(_no_file(path))
    choices, changes = _parsed(overrides, path.parent)
    try:
        content = _with_current_names(_put_together(path, choices), path, old_name)
        for change in _renamed(changes, content):
            try:
                _apply(change, content)
            except OmegaConfBaseException as error:
                said = _first_lines(error, 1)
                raise SpecError(f"command line: {change.key_or_group}: it has no such place: {said}") from error
        if "storage" not in content:
            content["storage"] = SweepSpec.model_fields["storage"].default
        return filled_in(content, str(path))
    except MissingConfigException as error:
        raise SpecError(_no_part(path, error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise SpecError(f"{path} cannot be composed: {_first_lines(error)}") from error
    except RecursionError:
        reason = "its `defaults` or `${...}` lead back to themselves, or are nested too deep"
        raise SpecError(f"{path} cannot be composed: {reason}") from None


def files_of(path: Path, overrides: Sequence[str] = ()) -> list[Path]:
    """The files that a sweep file is put together from: itself, and those that `defaults` and overrides name.

    Raises:
        SpecError: one of them cannot be read.
    """
    choices, _ = _parsed(overrides, path.parent)
    folder = _SweepFolder("main", f"sweep://{path.absolute()}")
    return folder.files([choice.lstrip("+").replace("=", "/") for choice in choices])


class NotAllowedError(SpecError):
    """A value is not what a file may hold.

    Attributes:
        keys: the path of keys to it.
        rule: that it breaks.
    """

    def __init__(self, keys: Keys, rule: str, place: str) -> None:
        super().__init__(f"{place}: {'.'.join(map(str, keys))}: {rule}")
        self.keys, self.rule = keys, rule


def filled_in(content: DictConfig, place: str) -> dict[str, Any]:
    """Plain values, with `${key}` and `${oc.env:NAME}` replaced by what they stand for.

    Raises:
        SpecError: one of them is not allowed, leads back to itself, or grows without bound.
    """
    raw = OmegaConf.to_container(content, resolve=False)
    assert isinstance(raw, dict)
    declared = raw.get(ENVIRONMENT) or ()
    allowed = {*ALWAYS, *(map(str, declared) if isinstance(declared, list | tuple) else ())}
    _Weighed(raw, allowed, place).weigh(())
    plain = OmegaConf.to_container(content, resolve=True)
    assert isinstance(plain, dict)
    for keys, rule in _unfit(plain, ()):
        raise NotAllowedError(keys, rule, place)
    return {str(key): value for key, value in plain.items()}


def opened(file: Path) -> tuple[str, DictConfig]:
    """The text of a YAML file, and its content with `${...}` as they stand there.

    Raises:
        SpecError: it is no mapping in YAML within bounds.
    """
    text = decode_text(yaml_bytes(str(file), error=SpecError), str(file), error=SpecError)
    values = load_yaml(text, str(file), error=SpecError, most_nodes=_MOST_NODES)
    if not isinstance(values, dict):
        raise SpecError(f"{file} must hold keys and values, but holds {type(values).__name__}")
    try:
        content = OmegaConf.create(text)  # once more, because it reads 1e-3 as a number
    except (yaml.YAMLError, OmegaConfBaseException) as error:  # PyYAML knows fewer characters than libyaml
        raise SpecError(f"{file} is not valid YAML: {error}") from error
    assert isinstance(content, DictConfig)
    return text, content


def _no_file(path: Path) -> str:
    if path.exists():
        return f"{path} must be a file, but is a {'folder' if path.is_dir() else 'pipe or device'}."
    near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    return f"There is no sweep file {path}. {did_you_mean(path.name, near) if near else 'Check the path.'}"


def _no_part(path: Path, error: MissingConfigException) -> str:
    """That a file is not there which `defaults`, or a choice on the command line, name."""
    name = error.missing_cfg_file or ""
    group, _, choice = name.rpartition("/")
    fix = did_you_mean(choice, error.options) if error.options else "Copy it there too, or take the line out."
    return (
        f"{path}: `defaults` or the command line name `{f'{group}: ' if group else ''}{choice}`, but there is no file "
        f"{path.parent / name}.yaml. {fix}"
    )


# Files


class _SweepFolder(ConfigSource):
    """The files that a sweep file may be put together from: itself, and what lies in its folder."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self._primary = Path(self.path)
        self._folder = self._primary.parent
        self._visits = 0

    @staticmethod
    def scheme() -> str:
        return "sweep"

    def load_config(self, config_path: str) -> ConfigResult:
        file = self._file(config_path)
        text, content = opened(file)
        if "hydra" in content:
            raise SpecError(f"{file}: the key `hydra` has no place in a sweep file: it is segdist that sets it")
        self._visits = 0
        self._visit(config_path)
        try:
            header = self._get_header_dict(text[:512])
        except ValueError as error:
            raise SpecError(f"{file}: a comment that begins with `@` is Hydra's, but: {error}") from None
        return ConfigResult(self.provider, f"sweep://{file}", content, header)

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return not _is_hydras(config_path) and self._inside(config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        return not _is_hydras(config_path) and self._file(config_path).exists()

    def files(self, chosen: Sequence[str]) -> list[Path]:
        """The sweep file, what is chosen, and whatever their `defaults` name, each once."""
        found: dict[Path, None] = {}
        places = [_PRIMARY, *chosen]
        while places:
            place = places.pop()
            file = self._file(place)
            if file not in found and file.exists():
                found[file] = None
                places += self._named(place)
        return list(found)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:  # noqa: ARG002 - Hydra's name
        return [] if _is_hydras(config_path) else sorted(f.stem for f in self._inside(config_path).glob("*.yaml"))

    def _visit(self, config_path: str) -> None:
        """Look at the `defaults` of a file, and of every file that they name."""
        self._visits += 1
        if self._visits > _MOST_FILES:
            rule = f"`defaults` must name at most {_MOST_FILES} files and not lead back"
            raise SpecError(f"{self._primary}: {rule}, but come to `{config_path}` again and again")
        for name in self._named(config_path):
            if self._file(name).exists():
                self._visit(name)

    def _named(self, config_path: str) -> Iterator[str]:
        """The files that the `defaults` of a file name."""
        file = self._file(config_path)
        raw: Any = OmegaConf.to_container(opened(file)[1])
        defaults = raw.get("defaults", ["_self_"])
        if not isinstance(defaults, list):
            raise SpecError(f"{file}: `defaults` must be a list, e.g. `[search: few, _self_]`, but is `{defaults}`")
        group = "" if config_path == _PRIMARY else posixpath.dirname(config_path)
        for entry in defaults:
            for key, value in entry.items() if isinstance(entry, dict) else [("", entry)]:
                inner = str(key).removeprefix("optional ").removeprefix("override ").partition("@")[0]
                for choice in value if isinstance(value, list) else [value]:
                    name = str(choice).partition("@")[0] if not inner else f"{inner}/{choice}"
                    if "${" in name:
                        raise SpecError(f"{file}: `defaults` must name files without `${{...}}`, but name `{name}`")
                    whole = posixpath.normpath(
                        name.lstrip("/") if name.startswith("/") else f"{group}/{name}".lstrip("/")
                    )
                    if _is_hydras(whole):
                        raise SpecError(f"{file}: `defaults` must not change Hydra's own settings, but name `{name}`")
                    if choice not in ("_self_", None):
                        yield whole
        if "_self_" not in defaults and config_path == _PRIMARY:
            raise SpecError(
                f"{file}: `defaults` must say when the file's own keys count: put `_self_` last if they win"
            )

    def _file(self, config_path: str) -> Path:
        name = config_path.removesuffix(".yaml")
        return self._primary if name == _PRIMARY else self._inside(f"{name}.yaml")

    def _inside(self, config_path: str) -> Path:
        place = self._folder / config_path
        if not place.resolve().is_relative_to(self._folder.resolve()):
            name = config_path.removesuffix(".yaml")
            raise SpecError(
                f"{self._primary}: `defaults` must name files in the sweep file's folder, {self._folder}, but name "
                f"`{name}`. Copy it there."
            )
        return place


def _is_hydras(config_path: str) -> bool:
    return config_path.partition("/")[0] == "hydra"


def _put_together(path: Path, choices: Sequence[str]) -> DictConfig:
    """What Hydra makes of a file and its `defaults`, without Hydra's own settings."""
    version.setbase("1.3")
    Plugins.instance()  # registers Hydra's own kinds of sources
    SourcesRegistry.instance().register(_SweepFolder)
    places = ConfigSearchPathImpl()
    places.append("hydra", "pkg://hydra.conf")
    places.append("main", f"sweep://{path.absolute()}")
    places.append("schema", "structured://")
    loader = ConfigLoaderImpl(places)
    content = loader.load_configuration(_PRIMARY, list(choices), RunMode.RUN, from_shell=False)
    OmegaConf.set_struct(content, value=False)
    del content["hydra"]
    return content


def _with_current_names(content: DictConfig, path: Path, old_name: renamed_keys.ReportOldName) -> DictConfig:
    raw = OmegaConf.to_container(content, resolve=False)
    assert isinstance(raw, dict)
    try:
        renamed = renamed_keys.current(raw, report=old_name)  # type: ignore[arg-type]
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from None
    return content if renamed == raw else OmegaConf.create(renamed)


# Overrides


def _parsed(overrides: Sequence[str], folder: Path) -> tuple[list[str], list[Override]]:
    """Choices of files in config groups, as texts for Hydra; and changes of keys."""
    choices, changes = [], []
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise SpecError(f"an override must read `key=value`, but got `{text}`")
        try:
            override = OverridesParser.create().parse_override(text)
        except (HydraException, RecursionError) as error:
            raise SpecError(f"command line: `{text}` cannot be read: {_first_lines(error, 1)}. {_QUOTING}") from None
        key = override.key_or_group
        if not key:
            raise SpecError(f"command line: `{text}` names no key")
        if key.partition(".")[0].partition("/")[0] == "hydra":
            raise SpecError(f"command line: `{key}` is Hydra's own setting and cannot be changed")
        if override.is_sweep_override():
            raise SpecError(f"command line: `{text}` names several values. A list is written `{key}=[a,b]`.")
        is_choice = any((folder / key).glob("*.yaml")) and not isinstance(override.value(), dict)
        if is_choice:
            choices.append(text)
        elif override.package is not None or "/" in key:
            raise SpecError(f"command line: there is no folder `{key}` beside the sweep file to choose a file of")
        else:
            changes.append(override)
    return choices, changes


_QUOTING = "Values with blanks or marks need quotes of their own: `'key=\"a value\"'`."


def _renamed(changes: Sequence[Override], content: DictConfig) -> Iterator[Override]:
    """The same changes under the names of today.

    Raises:
        SpecError: a key is named by its old and by its new name.
    """
    spelled: dict[str, str] = {}
    for change in changes:
        place = f"command line: {change.key_or_group}"
        try:
            found = _names_removed(change, content) if change.is_delete() else _names_set(change)
        except ValueError as error:
            raise SpecError(f"{place}: {error}") from None
        for one in found:
            if spelled.setdefault(one.key_or_group, change.key_or_group) != change.key_or_group:
                raise SpecError(f"{place}: `{one.key_or_group}` is given twice, once by its old name: remove that one")
            yield one


def _names_removed(change: Override, content: DictConfig) -> list[Override]:
    key = change.key_or_group.removeprefix("space.")
    front = change.key_or_group.removesuffix(key)
    there = content.get("space") if front else content
    both = [name for name in renamed_keys.SPLIT.get(key, ())[:2] if _is_there(there, name, flat=bool(front))]
    names = [front + name for name in both or [renamed_keys.current_key(key)]]
    if names != [change.key_or_group]:
        renamed_keys.warn(f"command line: ~{change.key_or_group}", f"it is now `{'` and `'.join(names)}`")
    return [replace(change, key_or_group=name) for name in names]


def _is_there(node: object, key: str, *, flat: bool) -> bool:
    return isinstance(node, DictConfig) and (key in node if flat else OmegaConf.select(node, key) is not None)


def _names_set(change: Override) -> list[Override]:
    key, value = change.key_or_group, change.value()
    parts = key.split(".")
    if parts[0] == "space" and len(parts) > 1:  # what is searched has dots in its name
        is_bound = parts[-1] in Range.model_fields and len(parts) > 2
        parts = ["space", ".".join(parts[1:-1]), parts[-1]] if is_bound else ["space", ".".join(parts[1:])]
    nested: Any = value
    for part in reversed(parts):
        nested = {part: nested}
    node: Any = renamed_keys.current(
        nested, report=lambda keys, said: renamed_keys.warn(f"command line: {'.'.join(keys)}", said)
    )
    names = []
    for _ in parts:
        ((name, node),) = node.items()
        names.append(name)
    found = [replace(change, key_or_group=".".join(names), _value=change._value if node == value else node)]
    if key in renamed_keys.SPLIT:
        *both, off = renamed_keys.SPLIT[key]
        found += [replace(change, key_or_group=name, _value=off) for name in both if name != found[0].key_or_group]
    return found


def _apply(change: Override, content: DictConfig) -> None:
    """Set, add or remove what an override says."""
    key, value = change.key_or_group, change.value()
    if key == "space" or key.startswith("space."):
        _apply_to_space(change, content)
    elif change.is_delete():
        *parents, leaf = key.split(".")
        node = OmegaConf.select(content, ".".join(parents)) if parents else content
        index = int(leaf) if isinstance(node, ListConfig) and leaf.isdecimal() else leaf
        there = index in node if isinstance(node, DictConfig) else isinstance(index, int) and index < len(node or ())
        if not there:
            raise SpecError(f"command line: ~{key}: there is no such key to remove")
        del node[index]
    elif change.is_add() and OmegaConf.select(content, key) is not None and not isinstance(value, dict | list):
        raise SpecError(f"command line: +{key}: the key is there already. Set it by `{key}=...`.")
    else:
        merge = change.is_force_add() or change.is_add()
        OmegaConf.update(content, key, value, merge=merge, force_add=True)


def _apply_to_space(change: Override, content: DictConfig) -> None:
    """The same for `space`, whose keys have dots in them: `space.train.lr`, `space.train.lr.high`."""
    name, value = change.key_or_group.removeprefix("space").removeprefix("."), change.value()
    there = content.get("space")
    space: dict[str, Any] = flat_space(OmegaConf.to_container(there)) if isinstance(there, DictConfig) else {}  # type: ignore[arg-type]
    old = [key for key in space if not name or key == name or key.startswith(f"{name}.")]
    front, _, last = name.rpartition(".")
    is_bound = bool(front) and last in Range.model_fields and not old
    if change.is_delete():
        if is_bound and isinstance(space.get(front), dict) and last in space[front]:
            del space[front][last]
        elif not old:
            raise SpecError(f"command line: ~space.{name}: it is not searched. {did_you_mean(name, space)}")
        content["space"] = {key: range_ for key, range_ in space.items() if key not in old}
        return
    if not name and not isinstance(value, dict):
        content["space"] = value  # whatever it is, the check of keys will say so
        return
    new = {front: {last: value}} if is_bound else flat_space({name: value} if name else value)
    if is_bound or change.is_add() or change.is_force_add():
        new = {key: _merged(space.get(key), range_) for key, range_ in new.items()}
        old = []
    content["space"] = {key: range_ for key, range_ in space.items() if key not in old or key in new} | new


def flat_space(node: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Ranges under dotted keys, from `train.lr: {...}` and from `train: {lr: {...}}` alike; later parts win."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        key = f"{prefix}{name}"
        is_range = not isinstance(value, Mapping) or bool(set(value) & set(Range.model_fields)) or not value
        for inner, range_ in [(key, value)] if is_range else flat_space(value, f"{key}.").items():
            found[inner] = _merged(found.get(inner), range_)
    return found


def _merged(old: object, new: object) -> object:
    return {**old, **new} if isinstance(old, Mapping) and isinstance(new, Mapping) else new


# What `${...}` may stand for


def _unfit(value: object, keys: Keys) -> Iterator[tuple[Keys, str]]:
    """Values that nothing downstream can hold: files, JSON, MLflow, numpy, a line of a log."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str) and (rule := _unfit_text(key)):
                yield keys, f"of the key {key[:100]!r}: {rule}"
            yield from _unfit(inner, (*keys, key))
    elif isinstance(value, str):
        if rule := _unfit_text(value):
            yield keys, rule
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield keys, f"a whole number must fit into 64 bits, but has {value.bit_length()}"
    elif isinstance(value, float) and not math.isfinite(value):
        yield keys, f"a number must be finite, but is {value}"


def _unfit_text(text: str) -> str:
    """Why a text cannot be used; "" where it can."""
    if len(text) > _LONGEST_TEXT:
        return f"a text must have at most {_LONGEST_TEXT:,} characters, but has {len(text):,}"
    odd = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), "")
    if odd:
        return f"a text must not hold control characters, but holds {odd!r}"
    if holds_credentials(text):
        return f"a URI must not hold credentials: what stands here is stored and shown. {without_credentials(text)}"
    if redact(text) != text:
        return "a secret must not stand in a sweep file, which is stored and shown, but something here looks like one"
    return ""


class _Weighed:
    """How large each value is once its `${...}` are filled in; every one of them is looked at."""

    def __init__(self, content: Any, allowed: set[str], place: str) -> None:
        self._content, self._allowed, self._place = content, allowed, place
        self._known: dict[Keys, tuple[int, int]] = {}
        self._open: list[Keys] = []

    def weigh(self, keys: Keys) -> tuple[int, int]:
        """Of the value at a path of keys: its characters, and the most steps down and over references in it."""
        if keys in self._open or len(self._open) > _MOST_STEPS:
            raise self._refused(keys, _TOO_MANY_STEPS)
        if keys not in self._known:
            self._open.append(keys)
            self._known[keys] = self._weigh(keys)
            self._open.pop()
        characters, steps = self._known[keys]
        if steps > _MOST_STEPS:
            raise self._refused(keys, _TOO_MANY_STEPS)
        if characters > _MOST_CHARACTERS:
            rule = f"values must have at most {_MOST_CHARACTERS:,} characters once `${{...}}` are filled in"
            raise self._refused(keys, rule)
        return characters, steps

    def _weigh(self, keys: Keys) -> tuple[int, int]:
        value = self._at(keys)
        targets: list[Keys] = []
        if isinstance(value, dict | list):
            targets = [(*keys, key) for key in (value if isinstance(value, dict) else range(len(value)))]
        elif isinstance(value, str) and "${" in value:
            found = [self._target(keys, reference) for reference in self._references(keys, value)]
            targets = [target for target in found if target is not None]
        weights = [self.weigh(target) for target in targets]
        own = 1 if isinstance(value, dict | list) else len(str(value)) + 1
        return own + sum(characters for characters, _ in weights), 1 + max((steps for _, steps in weights), default=0)

    def _references(self, keys: Keys, text: str) -> Iterator[str]:
        """The keys that a text refers to, from the inside out."""
        if len(text) > _LONGEST_WITH_REFERENCES:
            rule = f"a value with `${{...}}` must have at most {_LONGEST_WITH_REFERENCES:,} characters"
            raise self._refused(keys, rule)
        while found := _INNERMOST.search(text):
            inner = found[1].strip()
            if _KEY.fullmatch(inner):
                yield inner
            elif variable := _VARIABLE.fullmatch(inner):
                self._check_variable(keys, variable[1])
            else:
                raise self._refused(keys, f"{_FILLED_IN_ARE}, but got `{found[0]}`")
            text = text[: found.start()] + _FILLED_IN + text[found.end() :]
        if "${" in text:
            raise self._refused(keys, f"{_FILLED_IN_ARE}, but got `{text}`")

    def _check_variable(self, keys: Keys, name: str) -> None:
        if names_secret(name):
            rule = (
                f"the environment variable {name} is a secret by its name, and what a sweep file holds is stored and "
                "shown. Leave it in the environment: MLflow (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), AWS "
                "(AWS_PROFILE, ...) and the hub (HF_TOKEN) read it from there"
            )
            raise self._refused(keys, rule)
        if name not in self._allowed:
            rule = (
                f"the environment variable {name} is not declared. If its value may be stored and shown, write "
                f"`{ENVIRONMENT}: [{name}]` into the file"
            )
            raise self._refused(keys, rule)

    def _target(self, keys: Keys, reference: str) -> Keys | None:
        """The keys that a reference leads to, up to the first value that is itself a reference; None for nowhere."""
        up = len(reference) - len(reference.lstrip("."))
        target = keys[: len(keys) - up] if up else ()
        for name in re.split(r"[.\[\]]+", reference.strip(".[]")):
            here = self._at(target)
            if isinstance(here, list) and name.isdecimal() and int(name) < len(here):
                target = (*target, int(name))
            elif isinstance(here, dict) and name in here:
                target = (*target, name)
            else:
                return target if isinstance(here, str) and "${" in here else None  # OmegaConf says what is missing
        return target

    def _refused(self, keys: Keys, rule: str) -> NotAllowedError:
        return NotAllowedError(keys, rule, self._place)

    def _at(self, keys: Keys) -> object:
        value = self._content
        for key in keys:
            value = value[key]
        return value


def _first_lines(error: BaseException, count: int = 4) -> str:
    """What an error says; Hydra leaves it to the cause at times."""
    while not str(error).strip() and error.__cause__:
        error = error.__cause__
    return "\n".join(str(error).strip().splitlines()[:count])
