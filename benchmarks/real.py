"""What students learn on photographs from few CPU-seconds, beside peers: the same split, the same seconds, three seeds.

`python -m benchmarks real` does all that is missing in `SEGDIST_REAL` (`real.jsonl` by default) and prints the table.
`python -m benchmarks.real --set masonry --student smp --labels masks --seed 0` does a part, and `--table` nothing.
One run is one line of that file, so that it can be stopped and go on. Nothing was tuned on the photographs held out.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._photographs import DATA, SETS, from_boxes, photographs
from benchmarks._students import STUDENTS
from segdist.core.json_values import JsonDict
from segdist.metrics.difference import image_weights, percentiles
from segdist.metrics.evaluator import Evaluator
from segdist.sweepfile.loading import load

SEEDS = 3
SECONDS = {"masonry": 300, "facades": 600, "potholes": 120, "buildings": 15}
"""CPU-seconds that each student has to learn from a set."""
FROM_BOXES = ("masonry",)
"""Sets of which ours also learns from boxes alone, by the teacher of thin structures."""
RESAMPLES = 2000
OURS = next(iter(STUDENTS))
"""What the others are compared with, image by image."""
MIN_SCORE = 0.3
"""As `evaluate.min_score`."""


@dataclass(frozen=True)
class Piece:
    """One run."""

    photographs: str
    labels: str
    student: str
    seed: int
    seconds: int

    def matches(self, line: JsonDict) -> bool:
        """Whether a line of the file is of this run."""
        return all(line[key] == value for key, value in vars(self).items())


def main(arguments: Sequence[str] = ()) -> None:
    """Run what is missing, and print the table of what there is."""
    asked = _asked(arguments)
    file = Path(asked.file)
    pieces = [] if asked.table else list(_pieces(asked))
    for piece in pieces:
        if not any(piece.matches(line) for line in _lines(file)):
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(_learned(piece)) + "\n")
    _print_table(_lines(file))


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__)
    parser.add_argument("--set", default="", help=f"one of {', '.join(SETS)}")
    parser.add_argument("--labels", default="", choices=["", "masks", "boxes"])
    parser.add_argument("--student", default="", help=f"part of the name of one: {'; '.join(STUDENTS)}")
    parser.add_argument("--seed", type=int, default=-1)
    parser.add_argument("--seconds", type=int, default=0, help="CPU-seconds of each student")
    parser.add_argument("--file", default=os.environ.get("SEGDIST_REAL", "real.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what there is, and run nothing")
    return parser.parse_args(arguments)


def _pieces(asked: argparse.Namespace) -> Iterator[Piece]:
    """Seed after seed, so that what was stopped has something of every student."""
    if not DATA.exists():
        sys.exit(f"The photographs must be in {DATA}, but are not.")
    for name in SETS:
        for seed in range(SEEDS):
            for student in STUDENTS:
                for labels in ("masks", "boxes") if name in FROM_BOXES and student == OURS else ("masks",):
                    if (
                        asked.set in ("", name)
                        and asked.labels in ("", labels)
                        and asked.student in student
                        and asked.seed in (-1, seed)
                    ):
                        yield Piece(name, labels, student, seed, asked.seconds or SECONDS[name])


def _learned(piece: Piece) -> JsonDict:
    """A student is trained and seen on what was held out: one line."""
    of = photographs(piece.photographs)
    train = list(of.train)
    if piece.labels == "boxes":
        policy = load("sweeps/photos.yaml").label
        assert policy is not None
        train = from_boxes(train, of.classes, policy)
    begun = time.process_time()
    found = STUDENTS[piece.student](piece.photographs, of, train, seed=piece.seed, seconds=piece.seconds)
    spent = time.process_time() - begun
    evaluator = Evaluator(of.classes, min_score=MIN_SCORE, metrics=("iou", "dice"))
    said = {prediction.image_id: prediction for prediction in found(of.held_out)}
    for sample, _ in of.held_out:
        evaluator.add(sample, said.get(sample.image_id))
    values = evaluator.values()
    line = {
        **vars(piece),
        "cpu_seconds": round(spent, 1),
        "iou": values["iou"],
        "f1": values["dice"],
        "images": [image.image_id for image in evaluator.seen],
        "sums": evaluator.table(evaluator.metric("iou")).tolist(),
    }
    print(f"{piece.photographs}, {piece.labels}, {piece.student}, seed {piece.seed}: IoU {values['iou']:.3f}, "
          f"F1 {values['dice']:.3f}, {spent:.0f} CPU-s", flush=True)  # fmt: skip
    return line


def _lines(file: Path) -> list[JsonDict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _print_table(lines: Sequence[JsonDict]) -> None:
    print(f"{'photographs, labels':24}{'student':34}{'seeds':>6}{'CPU-s':>7}{'IoU':>7}{'F1':>7}  {OURS} less it, IoU")
    kinds = dict.fromkeys((line["photographs"], line["labels"], line["seconds"]) for line in lines)
    for kind in kinds:
        of_kind = [line for line in lines if (line["photographs"], line["labels"], line["seconds"]) == kind]
        for student in dict.fromkeys(line["student"] for line in of_kind):
            runs = {line["seed"]: line for line in of_kind if line["student"] == student}
            iou, f1, spent = (np.mean([run[key] for run in runs.values()]) for key in ("iou", "f1", "cpu_seconds"))
            beside = {line["seed"]: line for line in of_kind if line["student"] == OURS}
            seeds = [seed for seed in runs if seed in beside]
            against = _against([beside[s] for s in seeds], [runs[s] for s in seeds]) if student != OURS else ""
            print(f"{f'{kind[0]}, {kind[1]}':24}{student:34}{len(runs):6}{spent:7.0f}{iou:7.3f}{f1:7.3f}  {against}")


def _against(ours: Sequence[JsonDict], theirs: Sequence[JsonDict]) -> str:
    """The mean difference over seeds, and in what 95 of 100 resamplings of the images lie, both on the same ones."""
    if not ours:
        return ""
    assert all(a["images"] == b["images"] for a, b in zip(ours, theirs, strict=True))
    weights = image_weights(len(ours[0]["images"]), np.random.default_rng(0), RESAMPLES)
    mean = float(np.mean([a["iou"] - b["iou"] for a, b in zip(ours, theirs, strict=True)]))
    apart = np.mean([_ious(a, weights) - _ious(b, weights) for a, b in zip(ours, theirs, strict=True)], axis=0)
    low, high = percentiles(apart) or (np.nan, np.nan)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _ious(
    line: JsonDict, weights: np.ndarray[tuple[int, int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(resamplings,) the mean over the classes that are there."""
    sums_RC3 = np.tensordot(weights, np.asarray(line["sums"], np.float64), axes=1)
    true_RC, found_RC, common_RC = np.moveaxis(sums_RC3, -1, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(common_RC / (true_RC + found_RC - common_RC), axis=1))


if __name__ == "__main__":
    main(sys.argv[1:])
