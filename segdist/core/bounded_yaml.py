"""YAML read within bounds: a kilobyte of it can ask for gigabytes, through aliases, depth or numbers of many digits.

Beyond YAML itself, a duplicate key in a mapping is refused: YAML would silently take the last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from segdist.core import storage
from segdist.core.errors import DataError, SegdistError
from segdist.core.text import decode_text

MOST_BYTES = 1 << 20
"""Of a file."""
MOST_NODES = 200_000
"""Keys, values and lists, an alias counted as all it stands for."""
_MOST_LEVELS = 64
_LONGEST_NUMBER = 100
_NUMBERS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with it


def read_yaml(uri: str, *, error: type[SegdistError] = DataError) -> object:
    """The content of a YAML file; see `load_yaml`.

    Raises:
        StorageError: it is missing or cannot be read.
        error: it is no regular file, or one of the reasons of `load_yaml`.
    """
    return load_yaml(yaml_bytes(uri, error=error), uri, error=error)


def yaml_bytes(uri: str, *, error: type[SegdistError] = DataError) -> bytes:
    """A file's content, at most as much as `load_yaml` takes.

    Raises:
        StorageError: it is missing or cannot be read.
        error: it is no regular file: a pipe would wait forever, a device never end.
    """
    if storage.is_local(uri):
        file = Path(storage.absolute(uri))
        if file.exists() and not file.is_file():
            raise error(f"{uri} must be a file, but is a {'folder' if file.is_dir() else 'pipe or device'}.")
    return storage.read_head(uri, MOST_BYTES + 1)


def load_yaml(
    content: str | bytes, place: str, *, error: type[SegdistError] = DataError, most_nodes: int = MOST_NODES
) -> Any:
    """Plain values: mappings, lists, strings, numbers, dates.

    Args:
        content: one document.
        place: what errors call it.
        error: what is raised.
        most_nodes: keys, values and lists, an alias counted as all it stands for.

    Raises:
        error: it is no YAML, no text, too large, too deep, leads back to itself, or has a key twice; with the line.
    """
    node = compose_yaml(content, place, error=error, most_nodes=most_nodes)
    with _named(place, error):
        return None if node is None else SafeConstructor().construct_document(node)


def load_written(content: str | bytes, place: str, *, error: type[SegdistError] = DataError) -> object:
    """Mappings and lists of texts, each as it is written: `no`, `1_0` and `null` are words, as names of classes are.

    Raises:
        error: as in `load_yaml`.
    """
    node = compose_yaml(content, place, error=error)
    return None if node is None else _as_written(node)


def compose_yaml(
    content: str | bytes, place: str, *, error: type[SegdistError] = DataError, most_nodes: int = MOST_NODES
) -> yaml.Node | None:
    """The same before it becomes values: with what was written, and where; None for an empty document.

    Raises:
        error: as in `load_yaml`.
    """
    if len(content) > MOST_BYTES:
        raise error(f"{place}: a YAML file must be at most {MOST_BYTES:,} bytes, but is larger.")
    text = content if isinstance(content, str) else decode_text(content, place, error=error)
    with _named(place, error):
        _check_levels(text)  # before composing: libyaml's composer recurses until the process dies
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _Measured(most_nodes).nodes(node, 1)
    return node


def _as_written(node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return {str(_as_written(key)): _as_written(value) for key, value in node.value}
    return [_as_written(one) for one in node.value] if isinstance(node, yaml.SequenceNode) else node.value


class _Unbounded(yaml.MarkedYAMLError):
    """A rule of this module is broken."""

    def __init__(self, rule: str, node: yaml.Node | yaml.Event) -> None:
        mark: Any = node.start_mark  # of libyaml, which the stubs of the base class do not know
        super().__init__(problem=rule, problem_mark=mark)


@contextmanager
def _named(place: str, error: type[SegdistError]) -> Iterator[None]:
    """Turn what the parser raises into an error with file and line."""
    try:
        yield
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        where = f"{place}:{mark.line + 1}" if mark else place
        rule = "" if isinstance(wrong, _Unbounded) else "must be YAML, but "
        raise error(f"{where}: {rule}{', '.join(filter(None, (wrong.context, wrong.problem)))}.") from None
    except (yaml.YAMLError, ValueError) as wrong:  # ValueError: the 99th of a month, a number of 5,000 digits
        raise error(f"{place}: must be YAML, but {wrong}.") from None


def _check_levels(text: str) -> None:
    level = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
            if level > _MOST_LEVELS:
                raise _Unbounded(f"values must be nested at most {_MOST_LEVELS} deep, but are deeper", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1


class _Measured:
    """How large and how deep the tree under each node is, once every alias is what it stands for."""

    def __init__(self, most_nodes: int) -> None:
        self._most_nodes = most_nodes
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def nodes(self, node: yaml.Node, level: int) -> tuple[int, int]:
        """Nodes and levels from this one down."""
        if id(node) in self._open:
            raise _Unbounded("an alias must not lead back to the value that it stands in, but does", node)
        if id(node) not in self._known:
            self._open.add(id(node))
            self._known[id(node)] = self._measure(node, level)
            self._open.remove(id(node))
        count, levels = self._known[id(node)]
        if level + levels > _MOST_LEVELS + 1:
            raise _Unbounded(f"values must be nested at most {_MOST_LEVELS} deep, but are deeper", node)
        return count, levels

    def _measure(self, node: yaml.Node, level: int) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
                rule = f"a number must have at most {_LONGEST_NUMBER} characters, but has {len(node.value):,}"
                raise _Unbounded(rule, node)
            return 1, 0
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        children = [child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,))]
        count, levels = 1, 0
        for child in children:
            inner, below = self.nodes(child, level + 1)
            count, levels = count + inner, max(levels, below + 1)
            if count > self._most_nodes:
                rule = f"there must be at most {self._most_nodes:,} values, those of aliases counted, but are more"
                raise _Unbounded(rule, node)
        return count, levels


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            written = (key.tag, key.value)
            if written in lines:
                raise _Unbounded(f"the key `{key.value}` must stand once, but stands in line {lines[written]} too", key)
            lines[written] = key.start_mark.line + 1
