"""Runs the benchmarks named on the command line, or all of them."""

import importlib
import pkgutil
import sys

import benchmarks


def main(names: list[str]) -> None:
    """Print each benchmark's table."""
    known = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_")]
    unknown = set(names) - set(known)
    if unknown:
        sys.exit(f"There is no benchmark {', '.join(sorted(unknown))}. Known: {', '.join(known)}.")
    for name in names or known:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
