"""Members of one process that take turns: one computes at a time, until all have come to where they compute as one.

A member is a thread with a random state of its own, so that it draws what it would draw alone. At a *meeting* it says
what it wants, and gives up its turn. When nobody has anything left to do before a meeting, one of those who want the
same does it for all of them, in its own thread, under its own autocast and gradient mode.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import torch

from segdist.core.cards import has_card

Act = Callable[[Sequence["Member"]], None]
"""Does what members want, who are waiting, and sets the `answer` of each; nobody else computes meanwhile."""
RandomState = tuple[bytes, ...]
"""What torch draws next, on the CPU and on the card of this process."""


class _State(Enum):
    READY = 1
    WAITING = 2
    AWAY = 3


class Turns:
    """Who computes, and who waits for what."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._members: list[Member] = []
        self._turn: Member | None = None

    @contextmanager
    def member(self) -> Iterator["Member"]:
        """Within the block this thread is a member, and computes only when it has the turn."""
        member = Member(self)
        with self._changed:
            self._members.append(member)
            if self._turn is None:
                self._pass_on()
        self._take(member)
        try:
            yield member
        finally:
            with self._changed:
                self._members.remove(member)
                self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to whoever has something to do; at a meeting of all, to one of those who want the same."""
        self._turn = next((m for m in self._members if m.state is _State.READY), None)
        if self._turn is None and self._members and all(m.state is _State.WAITING for m in self._members):
            wanted = min((m.wants for m in self._members), key=lambda wants: wants[0])
            group = tuple(m for m in self._members if m.wants == wanted)
            group[0].group, self._turn = group, group[0]
        self._changed.notify_all()

    def _give_up(self, member: "Member", state: _State) -> None:
        member.random = random_state()
        with self._changed:
            member.state = state
            self._pass_on()

    def _come_back(self, member: "Member") -> None:
        with self._changed:
            member.state = _State.READY
            if self._turn is None:
                self._pass_on()
        self._take(member)

    def _take(self, member: "Member") -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn is member)
        set_random_state(member.random)


class Member:
    """A thread that takes turns.

    Attributes:
        asks: what it brought to the meeting.
        answer: what it takes away; an exception is raised in its thread.
        random: what it draws next, while it has not the turn.
        state: whether it waits, and for what.
        wants: what it waits for.
        group: those for whom it is to act.
        is_leaving: whether its thread is to end at its next meeting.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.asks: object = None
        self.answer: object = None
        self.random = random_state()
        self.state = _State.READY
        self.wants: tuple[bool, Hashable] = (False, None)
        self.group: Sequence[Member] = ()
        self.is_leaving = False

    def meet(self, wants: Hashable, asks: object, act: Act, *, last: bool = False) -> object:
        """Wait until nobody has anything else to do, and have what some want done once for all of them.

        Args:
            wants: members with equal wishes are served together.
            asks: what the act needs of this member.
            act: what is to be done.
            last: whether it waits until nobody wants anything that is not.

        Returns:
            The answer that the act gave this member.
        """
        self.wants, self.asks, self.answer = (last, wants), asks, None
        self._turns._give_up(self, _State.WAITING)
        self._turns._take(self)
        if group := self.group:
            self.group = ()
            self._act(group, act)
        if self.is_leaving:
            raise SystemExit
        answer, self.asks, self.answer = self.answer, None, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _act(self, group: Sequence["Member"], act: Act) -> None:
        before = self.random
        try:
            act(group)
        except BaseException as error:  # noqa: BLE001 - raised where each of them waits
            for one in group:
                one.answer = error
        after = random_state()
        for one in group:
            one.state = _State.READY
            if one.random == before:
                one.random = after

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within the block this thread does nothing that others could disturb; at their meetings they wait for it."""
        self._turns._give_up(self, _State.AWAY)
        try:
            yield
        finally:
            self._turns._come_back(self)


def random_state() -> RandomState:
    """What torch draws next."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if has_card() else [])]
    return tuple(state.numpy().tobytes() for state in states)


def set_random_state(state: RandomState) -> None:
    """Have torch draw what it would have drawn."""
    cpu, *cards = (torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in state)
    torch.set_rng_state(cpu)
    for card in cards:
        torch.cuda.set_rng_state(card)
