"""A short attack on every reader, and every case that once did harm."""

import pytest

from tests.fuzz.child import CORPUS
from tests.fuzz.runner import attack
from tests.fuzz.targets import TARGETS

NEEDS_TORCH = [name for name in TARGETS if name.startswith(("model-", "weights"))]


@pytest.mark.parametrize(
    ("targets", "cases"),
    [([name for name in TARGETS if name not in NEEDS_TORCH], 12), (NEEDS_TORCH, 6)],
    ids=["data", "weights"],
)
def test_hostile_files_give_a_result_or_an_error_for_users(targets: list[str], cases: int) -> None:
    failures = list(attack(targets, seed=0, first=0, last=cases))
    assert not failures, "\n\n".join(map(str, failures))


def test_the_corpus_holds_cases_of_readers_that_there_are() -> None:
    assert {folder.name for folder in CORPUS.iterdir() if folder.is_dir()} <= TARGETS.keys()
