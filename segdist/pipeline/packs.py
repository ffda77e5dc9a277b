"""Which trials are trained together: the processes that train several at once, and who has a place in which."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import ModuleType

from ray.actor import ActorHandle
from ray.exceptions import RayError

from segdist.pipeline.trial import Seat

_PATIENCE = 60.0
"""Seconds that a trial whose process broke down may take to leave its pack."""


@dataclass
class _Host:
    """A process, what its trials have in common ("" where it has one that nobody may join), and who they are."""

    actor: ActorHandle
    name: str
    kind: str = ""
    seats: dict[str, "_Taken"] = field(default_factory=dict)


@dataclass
class _Taken:
    number: int
    seat: Seat
    has_company: bool = False


class Packs:
    """The processes of a search that train its trials.

    Args:
        ray: the connected `ray` module.
        size: trials that one of them trains at once.
        cpus: of each.
        gpus: of each.
        is_to_leave: whether the node of a process is about to leave the cluster: then it gets no more trials.
    """

    def __init__(
        self,
        ray: ModuleType,
        *,
        size: int,
        cpus: float,
        gpus: float,
        is_to_leave: Callable[[ActorHandle], bool] = lambda _: False,
    ) -> None:
        self._ray, self.size, self._cpus, self._gpus, self._is_to_leave = ray, size, cpus, gpus, is_to_leave
        self._hosts: list[_Host] = []
        self._gone: list[_Host] = []
        self._alone: set[int] = set()
        self._broke_together: set[int] = set()

    def take(self, trial_id: str, number: int, kind: str, *, room: int) -> dict[str, str] | None:
        """A place for a trial, where the cluster holds `room` processes; None where there is none now.

        Args:
            trial_id: Tune's.
            number: of the trial.
            kind: equal for trials that may be trained together; "" for one that may not.
            room: processes that the cluster holds.
        """
        kind = "" if number in self._alone else kind
        staying = [host for host in self._hosts if not self._is_to_leave(host.actor)]
        host = self._free(staying, room) or self._joinable(staying, kind)
        if host is None:
            return None
        host.kind = kind
        seat = Seat(host.name, f"{number}-{uuid.uuid4().hex[:8]}")
        host.seats[trial_id] = _Taken(number, seat)
        for taken in host.seats.values():
            taken.has_company |= len(host.seats) > 1
        return asdict(seat)

    def give_up(self, trial_id: str, *, broke: bool) -> None:
        """A trial ended, was stopped, or broke down."""
        host = next((host for host in (*self._hosts, *self._gone) if trial_id in host.seats), None)
        if host is None:
            return
        taken = host.seats.pop(trial_id)
        left = host.actor.leave.remote(taken.seat.token)
        if not broke:
            return
        if taken.has_company:
            self._broke_together.add(taken.number)
        try:
            self._ray.get(left, timeout=_PATIENCE)
        except RayError:  # the process is gone, or so busy that nobody may wait for it
            self._end(host)

    def part(self, number: int) -> bool:
        """Whether a trial that broke down had company: then it has none from now on."""
        if number not in self._broke_together:
            return False
        self._broke_together.discard(number)
        self._alone.add(number)
        return True

    def share(self, number: int) -> float:
        """The part of a process that a trial holds."""
        sizes = (len(h.seats) for h in self._hosts if any(taken.number == number for taken in h.seats.values()))
        return 1 / next(sizes, 1)

    def close(self) -> None:
        """End the processes."""
        for host in list(self._hosts):
            self._end(host)

    def _free(self, staying: list[_Host], room: int) -> _Host | None:
        """A process without trials; a new one where the cluster holds another."""
        for host in [host for host in self._hosts if not host.seats]:
            if host not in staying or len(staying) > room or not self._is_alive(host):
                self._end(host)
                staying = [one for one in staying if one is not host]
            else:
                return host
        if len(staying) >= room:
            return None
        name = f"pack-{uuid.uuid4().hex}"
        from segdist.pipeline.pack_host import PackHost  # imports torch, which a driver without packs does without

        actor = self._ray.remote(PackHost).options(
            name=name,
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_concurrency=4 * self.size,  # one call of each trial waits for its next report
        )
        self._hosts.append(_Host(actor.remote(self._cpus, self._gpus), name))
        return self._hosts[-1]

    def _joinable(self, staying: list[_Host], kind: str) -> _Host | None:
        """The process of trials of this kind that has the fewest."""
        alike = [host for host in staying if kind and host.kind == kind and len(host.seats) < self.size]
        return min(alike, key=lambda host: len(host.seats), default=None)

    def _is_alive(self, host: _Host) -> bool:
        try:
            self._ray.get(host.actor.leave.remote(""), timeout=_PATIENCE)
        except RayError:
            return False
        return True

    def _end(self, host: _Host) -> None:
        """End a process; those of its trials that have not been told yet will be."""
        if host in self._hosts:
            self._hosts.remove(host)
            self._gone.append(host)
        self._gone = [one for one in self._gone if one.seats]
        with suppress(RayError):
            self._ray.kill(host.actor)
