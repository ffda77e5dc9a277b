"""Changes to files: of bytes, of the tokens of a text, of the values of JSON."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e-300, 1e8, -1e8, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**200,
    -(2**63), "", "0", "1e400", "nan", "..", "../../../etc/passwd", "/dev/zero", "a\x00b", "\x1b[31m", "\ud800",
    "x" * 100_000, [], {}, [[]], [None], [1], [1, 2], [0] * 10_000, {"a": 1}, "http://127.0.0.1:9/x",
    "file:///etc/passwd",
)  # fmt: skip
_TOKENS = (
    b"", b"0", b"-1", b"1e9", b"1e308", b"nan", b"inf", b"99999999999999999999", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf",
    b"..", b"/", b"\\", b":", b"'", b'"', b"[", b"{", b"<", b"&x;", b"*a", b"&a ", b"!!python/object:os.system ",
    b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"\x1b]0;x\x07", b"9" * 5000, b" " * 5000, b"\r", b"\n", b"\x85",
)  # fmt: skip
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def change(folder: Path, random: Random) -> None:
    """Change one or a few of the files below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for file in random.sample(files, min(len(files), random.choice((1, 1, 1, 2, 3)))):
        content = file.read_bytes()
        for _ in range(random.choice((1, 1, 2, 4))):
            content = random.choice(_fitting(file))(content, random)
        file.write_bytes(content)


def _fitting(file: Path) -> list[Callable[[bytes, Random], bytes]]:
    if file.suffix in (".json", ".jsonl"):
        return [_json, _json, _json, _text, _bytes]
    if file.suffix in (".txt", ".xml", ".yaml", ".csv"):
        return [_text, _text, _bytes]
    return [_bytes]


def _json(content: bytes, random: Random) -> bytes:
    """One value of the tree replaced, removed, repeated or nested."""
    try:
        tree = json.loads(content)
        holders = list(_holders(tree))
    except (ValueError, RecursionError):
        return _text(content, random)
    if not holders:
        return _written(random.choice(_VALUES))
    holder = random.choice(holders)
    key = random.choice(list(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
    random.choice((_removed, _repeated, _nested, _renamed, _replaced, _replaced))(holder, key, random)
    return _written(tree)


def _holders(node: Any) -> Iterator[Any]:
    """Every list and object of a tree that holds something."""
    if isinstance(node, dict | list) and node:
        yield node
        for inner in node.values() if isinstance(node, dict) else node:
            yield from _holders(inner)


def _removed(holder: Any, key: Any, _: Random) -> None:
    del holder[key]


def _repeated(holder: Any, key: Any, random: Random) -> None:
    if isinstance(holder, list):
        holder[key:key] = [holder[key]] * random.choice((1, 2, 1000))


def _nested(holder: Any, key: Any, random: Random) -> None:
    for _ in range(random.choice((1, 50, 5000))):
        holder[key] = [holder[key]]


def _renamed(holder: Any, key: Any, random: Random) -> None:
    if isinstance(holder, dict):
        holder[str(random.choice(_VALUES))[:50]] = holder.pop(key)


def _replaced(holder: Any, key: Any, random: Random) -> None:
    holder[key] = random.choice(_VALUES)


def _written(tree: Any) -> bytes:
    try:
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    except RecursionError:  # deeper than the writer goes
        return b"[" * 100_000


def _text(content: bytes, random: Random) -> bytes:
    """A token put in, a number or word replaced, a line repeated or removed."""
    lines = content.split(b"\n")
    row = random.randrange(len(lines))
    how = random.randrange(4)
    if how == 0:
        lines[row:row] = [lines[row]] * random.choice((1, 3, 2000))
    elif how == 1:
        del lines[row]
    else:
        words = lines[row].replace(b">", b"> ").replace(b"<", b" <").split(b" ")
        words[random.randrange(len(words))] = random.choice(_TOKENS)
        lines[row] = b" ".join(words)
    return b"\n".join(lines)


def _bytes(content: bytes, random: Random) -> bytes:
    """Bytes flipped, cut off, moved, repeated, or overwritten by numbers that are often limits."""
    if not content:
        return random.choice(_TOKENS)
    made, place = bytearray(content), random.randrange(len(content))
    how = random.randrange(5)
    if how == 0:
        made[place] ^= 1 << random.randrange(8)
    elif how == 1:
        del made[place:]
    elif how == 2:
        width = random.choice((1, 2, 4, 8))
        number = random.choice(_NUMBERS) & ((1 << 8 * width) - 1)
        made[place : place + width] = number.to_bytes(width, random.choice(("little", "big")))
    elif how == 3:
        stop = min(place + random.choice((1, 16, 256)), len(made))
        made[place:place] = made[place:stop] * random.choice((1, 64))
    else:
        del made[place : place + random.choice((1, 4, 64))]
    return bytes(made)
