"""What Ray's memory monitor says when it ends a worker tells whose memory it was."""

from pathlib import Path

import pytest
import ray

from segdist.pipeline.memory_kills import MemoryKill

LEASE = "(Worker's Lease ID: 0f76 | Granted time: 2026-11-29 | Retriable: false | Memory used: {} GiB)"


def said(*ended: float, used: float) -> str:
    """As Ray 2.60 words it."""
    killed = "\n".join(LEASE.format(one) for one in ended)
    return (
        "Failure # 1\nray.exceptions.OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory. "
        f"Memory on the node (IP: 10.0.0.7, ID: 8c5a) was {used:.2f}GB used / 22.90GB limit (0.958)\n"
        f"Object store memory usage: [- num bytes created: 0]\nRay killed {len(ended)} worker(s) based on the killing "
        f"policy\n{killed}\nTop 10 memory users: PID\tMEM(GB)\tCOMMAND\n41\t12.60\tpython other.py --large\n"
        "548\t0.73\tray::train()\n7\t0.20\t/usr/bin/postgres\n"
    )


def test_what_others_hold_is_told_from_what_was_ended_and_they_are_named() -> None:
    kill = MemoryKill.of(said(0.73, used=21.9))
    assert kill is not None
    assert (kill.node, kill.ended, kill.used, kill.limit) == ("10.0.0.7", 0.73, 21.9, 22.9)
    assert kill.is_of_others
    assert str(kill) == (
        "Other processes hold the memory of the node 10.0.0.7 (21.9 of 22.9 GB are used, 0.73 of them by what was "
        "ended for it: 12.6 GB by `python other.py --large`)."
    )


@pytest.mark.parametrize(("ended", "is_of_others"), [((14.0,), False), ((6.0, 6.0), False), ((10.0,), True)])
def test_what_was_ended_with_half_of_the_memory_has_to_blame_itself(ended: tuple[float], is_of_others: bool) -> None:
    kill = MemoryKill.of(said(*ended, used=21.9))
    assert kill is not None
    assert kill.is_of_others is is_of_others


def test_an_error_that_does_not_say_whose_memory_it_was_blames_nobody() -> None:
    assert MemoryKill.of("OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory.") is None


@pytest.mark.parametrize(
    "template",
    [
        b"Memory on the node (IP: %s, ID: %s) was %sGB used / %sGB limit (%f)",
        b"(Worker's Lease ID: %s | Granted time: %s | Retriable: %s | Memory used: %s GiB)",
        b"Top 10 memory users: %s",
    ],
)
def test_ray_still_words_it_so(template: bytes) -> None:
    """The program that writes the message has its words."""
    assert template in (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").read_bytes()
