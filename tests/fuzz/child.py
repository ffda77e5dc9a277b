"""The process that reads hostile files: bounded, and telling what went wrong with which case."""

import json
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random

from segdist.core.errors import SegdistError
from tests.fuzz.mutations import change
from tests.fuzz.targets import TARGETS

MOST_BYTES, MOST_SECONDS = 2 * 2**30, 10
"""What one case may take beyond what the process holds when it begins, and of the processor."""
CORPUS = Path(__file__).parent / "corpus"
"""Cases that once did harm, as `TARGET/NAME/` with the files that differ from the example."""


def main(targets: Sequence[str], *, seed: int, first: int, last: int, scratch: Path) -> None:
    """Read what the corpus has of each target, then its cases from `first` up to but without `last`.

    Failures go to `scratch/failed.jsonl`; `scratch/now` names the case that is being read.
    """
    for name in targets:  # imports what it needs, and must work
        TARGETS[name].seed(_made(scratch / name / "seed"))
        TARGETS[name].read(_copied(scratch / name / "seed", scratch / name / "case"))
    _bound_memory()
    for name in targets:
        for known in sorted((CORPUS / name).glob("*")):
            folder = _copied(scratch / name / "seed", scratch / name / "case")
            shutil.copytree(known, folder, dirs_exist_ok=True)
            _read(name, folder, scratch, known.name)
        for number in range(first, last):
            folder = _copied(scratch / name / "seed", scratch / name / "case")
            change(folder, Random(f"{name} {seed} {number}"))
            _read(name, folder, scratch, f"{seed}:{number}")


def _read(name: str, folder: Path, scratch: Path, case: str) -> None:
    """Read one case; anything but a result or an error for users is written down."""
    (scratch / "now").write_text(json.dumps([name, case]))
    spent = resource.getrusage(resource.RUSAGE_SELF)
    until = int(spent.ru_utime + spent.ru_stime) + 1 + MOST_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    try:
        TARGETS[name].read(folder)
    except SegdistError:
        pass
    except Exception as error:  # noqa: BLE001 - whatever else comes out is what is looked for
        operation_ = "".join(traceback.format_exception(error))[-3000:]
        with (scratch / "failed.jsonl").open("a") as stream:
            stream.write(
                json.dumps({"target": name, "case": case, "error": repr(error)[:300], "operation_": operation_}) + "\n"
            )


def _bound_memory() -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1]) for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held * 1024 + MOST_BYTES,) * 2)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _copied(seeds: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds, folder)
    return folder


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    wanted, of_seed, begin, end, place = sys.argv[1:]
    main(wanted.split(","), seed=int(of_seed), first=int(begin), last=int(end), scratch=Path(place))
