"""How long the command line takes to answer, against a bare interpreter."""

import subprocess
import sys
import sysconfig
import time
from pathlib import Path

REPEATS = 5


def main() -> None:
    """Print the median of a few runs of `--help` and `check`."""
    baseline = _seconds([sys.executable, "-c", "pass"])
    print(f"python -c pass                        {baseline:6.2f} s   baseline")
    segdist = [str(Path(sysconfig.get_path("scripts")) / "segdist")]  # as users type it
    for arguments, limit in ((["--help"], 0.5), (["check", "sweeps/quickstart.yaml"], 3.0)):
        seconds = _seconds([*segdist, *arguments])
        name = " ".join(["segdist", *arguments])
        print(f"{name[:37]:37} {seconds:6.2f} s   x{seconds / baseline:.0f}, limit {limit} s")


def _seconds(command: list[str]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return sorted(times)[REPEATS // 2]
