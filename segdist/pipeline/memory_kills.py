"""Whose memory it was when Ray's memory monitor ended a worker: its own, or that of others on the node."""

import re
from dataclasses import dataclass
from typing import Self

_NODE = re.compile(r"Memory on the node \(IP: (\S+?),.*?\) was ([\d.]+)GB used / ([\d.]+)GB limit")
_ENDED = re.compile(r"Memory used: ([\d.]+) GiB")
_USER = re.compile(r"^\d+\t([\d.]+)\t(.+)$", re.MULTILINE)
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
        users: the largest processes: what each had, and its command.
    """

    node: str
    ended: float
    used: float
    limit: float
    users: tuple[tuple[float, str], ...]

    @classmethod
    def of(cls, text: str) -> Self | None:
        """From the text of an error; None where the monitor did not say whose memory it was."""
        node, ended = _NODE.search(text), _ENDED.findall(text)
        if not node or not ended:
            return None
        users = ((float(size), command.strip()) for size, command in _USER.findall(text))
        return cls(node[1], sum(map(float, ended)), float(node[2]), float(node[3]), tuple(users))

    @property
    def is_of_others(self) -> bool:
        """Whether others held more than what was ended: then that does not tell how much it needs."""
        return self.used - self.ended > self.ended

    def __str__(self) -> str:
        largest = [f"{size:g} GB by `{command[:_SHORT]}`" for size, command in self.users if size > self.ended]
        named = f": {', '.join(largest[:_NAMED])}" if largest else ""
        return (
            f"Other processes hold the memory of the node {self.node} ({self.used:g} of {self.limit:g} GB are used, "
            f"{self.ended:g} of them by what was ended for it{named})."
        )
