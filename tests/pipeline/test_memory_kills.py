"""What Ray's memory monitor says when it ends a worker tells whose memory it was."""

from pathlib import Path

import pytest
import ray

from segdist.pipeline.memory_kills import MemoryKill

KILL = (
    "Selected to kill: (Actor(7c2d): job ID=01000000, lease ID=00, task name=A.train, required resources={{}}, pid={}, "
)


def said(*ended: float, used: float) -> str:
    """As Ray 2.60 words it; the ended processes have the numbers 548, 549, ..."""
    killed = "\n".join(
        f"{KILL.format(pid)}actual memory used={size:.2f}GB, worker ID=bf4e)" for pid, size in enumerate(ended, 548)
    )
    return (
        "Failure # 1\nray.exceptions.OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory. "
        f"Memory on the node (IP: 10.0.0.7, ID: 8c5a) was {used:.2f}GB used / 22.90GB limit (0.958)\n"
        f"OOM kill reason: Memory usage exceeded threshold\nObject store memory usage: [- objects spillable: 0\n]\n"
        f"Ray killed {len(ended)} worker(s) based on the killing policy\nConsidered workers: [\n{killed}\n]\n"
        "To see more information, use `ray logs raylet.out`\nTop 10 memory users: PID\tMEM(GB)\tCOMMAND\n"
        f"41\t12.60\tpython other.py --large\n548\t{ended[0]:.2f}\tray::train()\n7\t0.20\t/usr/bin/postgres\n"
        "Refer to the documentation on how to address the out of memory issue."
    )


def test_what_others_hold_is_told_from_what_was_ended_and_they_are_named() -> None:
    kill = MemoryKill.of(said(0.73, used=21.9))
    assert kill is not None
    assert (kill.node, kill.ended, kill.used, kill.limit) == ("10.0.0.7", 0.73, 21.9, 22.9)
    assert kill.is_of_others
    assert str(kill) == (
        "Other processes hold the memory of the node 10.0.0.7: 21.9 of 22.9 GB are used, 0.73 of them by the trial, "
        "12.6 GB by `python other.py --large`, 0.2 GB by `/usr/bin/postgres`."
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
        b"Selected to kill: %s",
        b"pid=%d, actual memory used=%sGB, worker ID=%s)",
        b"Top 10 memory users: %s",
    ],
)
def test_ray_still_words_it_so(template: bytes) -> None:
    """The program that writes the message has its words."""
    assert template in (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").read_bytes()
