"""Why something failed is said in a sentence that a user can do something about."""

import pytest

from segdist.pipeline.tune_trials import cause

KILLED = """ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.7, ID: 0a) where the task was running was 15.2GB / 16.0GB (0.95), which exceeds ...
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/ray-core/..."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KILLED, "the node 10.0.0.7 ran out of memory. Lower `train.batch_size`"),
        (
            "Traceback\nOSError: [Errno 28] No space left on device: '/x'",
            "the disk of the node is full. Free some space",
        ),
        ("Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried ...", "the card's memory did not suffice"),
        ("ray.exceptions.ActorDiedError: The actor died unexpectedly\n  ip: 10.0.0.9\n", "its process died 10.0.0.9"),
        ("Traceback (most recent call last):\nValueError: 7 is no size\n", "ValueError: 7 is no size"),
        ("", "no error was recorded"),
    ],
)
def test_the_cause_is_a_sentence(text: str, said: str) -> None:
    assert said in cause(text)
    assert "\n" not in cause(text)
