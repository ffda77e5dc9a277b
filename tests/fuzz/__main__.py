"""`python -m tests.fuzz --minutes 30 [TARGET ...]`, or one case: `--case SEED:NUMBER TARGET [--keep FOLDER]`."""

import argparse
import shutil
import time
from pathlib import Path
from random import Random

from tests.fuzz.child import CORPUS
from tests.fuzz.mutations import change
from tests.fuzz.runner import attack
from tests.fuzz.targets import TARGETS

CASES = 100
"""Of one target in one process."""


def main() -> None:
    """Attack until the time is over; say what was found, each kind of error once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", help="SEED:NUMBER of one target: write its files to --keep")
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    wanted = asked.targets or list(TARGETS)
    if asked.case:
        _keep(wanted[0], asked.case, asked.keep or CORPUS / wanted[0] / asked.case.replace(":", "-"))
        return
    until, first, seen = time.monotonic() + 60 * asked.minutes, 0, set[str]()
    while time.monotonic() < until:
        for name in wanted:
            for failure in attack([name], seed=asked.seed, first=first, last=first + CASES):
                if failure.kind not in seen:
                    _say(str(failure))
                seen.add(failure.kind)
            if time.monotonic() > until:
                break
        first += CASES
        _say(f"{first} cases of each of {len(wanted)} readers; {len(seen)} kinds of failure")


def _keep(name: str, case: str, folder: Path) -> None:
    """The files of a case, as far as they differ from the example."""
    seed, _, number = case.partition(":")
    example, changed = folder.with_name(folder.name + "-example"), folder
    for place in (example, changed):
        place.mkdir(parents=True)
        TARGETS[name].seed(place)
    change(changed, Random(f"{name} {seed} {number}"))
    for file in [p for p in changed.rglob("*") if p.is_file()]:
        same = example / file.relative_to(changed)
        if same.exists() and same.read_bytes() == file.read_bytes():
            file.unlink()
    shutil.rmtree(example)
    _say(str(folder))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command of its own


main()
