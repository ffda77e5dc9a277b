"""Several trainings in one process, that compute at once what their networks have in common.

The members of a pack train small weights of their own beside the same frozen ones. What their networks compute from
tensors alone they ask for by `Segmenter.computed`; losses, optimisers, schedules, averages and random numbers are each
member's own, and so are its errors.
"""

import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from segdist.core.causes import is_out_of_memory
from segdist.engine.stacked import (
    Call,
    are_alike,
    at_once,
    differing,
    furthest,
    read_by,
    share_frozen,
    statistics_kept,
    structure,
)
from segdist.engine.turns import Member, RandomState, Turns, random_state, set_random_state
from segdist.nets.segmenter import Segmenter, Tree

_LOG = logging.getLogger(__name__)
_MOST_APART, _MOST_APART_IN_HALVES = 1e-3, 0.05
"""By what the first outputs that are computed at once may differ from separate ones, relative to the largest value."""


class Pack:
    """Trainings that take turns, and compute at once what they can.

    Attributes:
        at_once: calls that were answered for several members at once.
        refused: by the name of a method, why each member calls it for itself.
    """

    def __init__(self) -> None:
        # A kernel that knows no batches of weights is called once for each, as in separate trainings: no news.
        torch._C._functorch._set_vmap_fallback_warning_enabled(False)  # type: ignore[attr-defined]  # noqa: FBT003
        self._turns = Turns()
        self._networks: dict[PackMember, Segmenter] = {}
        self._checked: set[Hashable] = set()
        self._reads: dict[Hashable, tuple[str, ...]] = {}
        self.at_once = 0
        self.refused: dict[str, str] = {}

    @contextmanager
    def member(self) -> Iterator["PackMember"]:
        """Within the block this thread is a member, and computes only when it has the turn."""
        with self._turns.member() as turn:
            member = PackMember(self, turn)
            try:
                yield member
            finally:
                self._networks.pop(member, None)

    def train(self, member: "PackMember", network: Segmenter) -> None:
        """A member begins to train a network: what is frozen in it, and equal in others', is in memory once."""
        self._networks.pop(member, None)
        share_frozen(self._networks.values(), network)
        self._networks[member] = network

    def answer(self, members: Sequence[Member]) -> None:
        """Answer the calls of members that ask for the same: each gets a tuple of what it asked for, or an empty one.

        Raises:
            Exception: memory does not hold what is computed at once.
        """
        calls = [member.asks for member in members if isinstance(member.asks, Call)]
        method = calls[0].method
        for member in members:
            member.answer = ()
        if len(calls) == 1 or method in self.refused:
            return
        random = random_state()
        try:
            answers = self._at_once(members, calls, random)
        except Exception as error:  # whatever a network does that cannot be done at once
            if is_out_of_memory(error):
                raise
            self.refused[method] = " ".join(str(error).split())[:300]
            _LOG.warning("`%s` is computed for each trial of a pack alone: %s", method, error)
            set_random_state(random)
        else:
            self.at_once += 1
            for member, answer in zip(members, answers, strict=True):
                member.answer = (answer,)

    def _at_once(self, members: Sequence[Member], calls: Sequence[Call], random: RandomState) -> list[Tree]:
        networks = [call.network for call in calls]
        names = differing(networks)
        kind, first = (calls[0].manner, names), []
        if kind not in self._reads:
            with statistics_kept(networks[:1]):
                answer, self._reads[kind] = read_by(calls[0], names)
            first = [answer]
        if not self._reads[kind] and are_alike(calls):
            found = [first[0] if first else calls[0].alone()] * len(calls)
            self._check_chance(members, random)
            return found
        set_random_state(random)
        found = at_once(calls, self._reads[kind])
        drawn = self._check_chance(members, random)
        known = calls[0].manner, frozenset(map(id, members))
        if known not in self._checked:
            with statistics_kept(networks):
                _check(calls, found, random)
            set_random_state(drawn)
            self._checked.add(known)
        return found

    @staticmethod
    def _check_chance(members: Sequence[Member], random: RandomState) -> RandomState:
        """What is drawn next, after what was computed for all members.

        Raises:
            ValueError: it drew, and alone they would not all have drawn the same.
        """
        drawn = random_state()
        if drawn != random and any(member.random != random for member in members):
            raise ValueError("it draws at random, and the trials do not draw the same")
        return drawn


class PackMember:
    """One training of a pack; `Segmenter.together` of its network."""

    def __init__(self, pack: Pack, turn: Member) -> None:
        self._pack, self._turn = pack, turn
        self._structure: Hashable = None
        self._is_asking = False
        self._told: set[str] = set()

    def train(self, network: Segmenter) -> None:
        """Have a network compute with those of the other members from now on."""
        self._pack.train(self, network)
        self._structure = structure(network)
        network.together = self

    def computed(self, network: Segmenter, method: str, *arguments: object) -> Tree:
        """See `Segmenter.computed`."""
        if self._is_asking:  # what is computed for all asks for parts of itself
            return getattr(network, method)(*arguments)
        call = Call.of(network, method, arguments)
        self._is_asking = True
        try:
            answer = self._turn.meet((call.kind, self._structure), call, self._pack.answer)
            return answer[0] if isinstance(answer, tuple) and answer else call.alone()
        finally:
            self._is_asking = False

    def backward(self, loss: Tensor) -> None:
        """See `Segmenter.backward`: of all members at once, for their graphs have parts in common."""
        self._turn.meet("backward", loss, _backward, last=True)

    def away(self) -> AbstractContextManager[None]:
        """See `turns.Member.away`."""
        return self._turn.away()

    def leave(self) -> None:
        """End the thread of this member at its next meeting; another thread asks for it."""
        self._turn.is_leaving = True

    def news(self) -> list[str]:
        """What each member computes alone, as far as this was not asked before."""
        said = [f"computes `{method}` on its own in its pack: {why}" for method, why in self._pack.refused.items()]
        new = [one for one in said if one not in self._told]
        self._told.update(new)
        return new


def _backward(members: Sequence[Member]) -> None:
    torch.autograd.backward([m.asks for m in members if isinstance(m.asks, Tensor)])


def _check(calls: Sequence[Call], found: Sequence[Tree], random: RandomState) -> None:
    """Compare what was computed at once with what each call gives alone.

    Raises:
        ValueError: it is not the same.
    """
    in_halves = any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    most = _MOST_APART_IN_HALVES if in_halves else _MOST_APART
    for call, together in zip(calls, found, strict=True):
        set_random_state(random)
        with torch.no_grad():
            gap = furthest(call.alone(), together)
        if not gap <= most:
            raise ValueError(f"at once it differs by {gap:.1e} from what it is alone")
