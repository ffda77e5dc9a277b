"""Whose memory it was when Ray's memory monitor ended a worker: its own, or that of others on the node."""

import re
from dataclasses import dataclass
from typing import Self

from segdist.core.redaction import redact

_NODE = re.compile(r"Memory on the node \(IP: (\S+?),.*?\) was ([\d.]+)GB used / ([\d.]+)GB limit")
_ENDED = re.compile(r"^Selected to kill: .*?\bpid=(\d+), actual memory used=([\d.]+)GB", re.MULTILINE)
_USER = re.compile(r"^(\d+)\t([\d.]+)\t(.+)$", re.MULTILINE)
_NAMED = 3
_SHORT = 60
"""Characters of a command."""


@dataclass(frozen=True)
class MemoryKill:
    """What the monitor said of a node when it ended workers there, in its gigabytes (2^30 bytes).

    Attributes:
        node: its address.
        ended: that the ended workers had together.
        used: that all processes of the node had.
        limit: that there was.
        others: the largest of the processes that go on: what each had, and its command.
    """

    node: str
    ended: float
    used: float
    limit: float
    others: tuple[tuple[float, str], ...]

    @classmethod
    def of(cls, text: str) -> Self | None:
        """From the text of an error; None where the monitor did not say whose memory it was."""
        node, ended = _NODE.search(text), dict(_ENDED.findall(text))
        if not node or not ended:
            return None
        others = ((float(size), line.strip()) for pid, size, line in _USER.findall(text) if pid not in ended)
        return cls(node[1], sum(map(float, ended.values())), float(node[2]), float(node[3]), tuple(others))

    @property
    def is_of_others(self) -> bool:
        """Whether others held more than what was ended: then that does not tell how much it needs."""
        return self.used - self.ended > self.ended

    def __str__(self) -> str:
        largest = ", ".join(f"{size:g} GB by `{redact(command)[:_SHORT]}`" for size, command in self.others[:_NAMED])
        return (
            f"Other processes hold the memory of the node {self.node}: {self.used:g} of {self.limit:g} GB are used, "
            f"{self.ended:g} of them by the trial" + (f", {largest}." if largest else ".")
        )
