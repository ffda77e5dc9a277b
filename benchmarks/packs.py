"""What four trainings save that share a process and the forward pass of what they have frozen (`search.pack: 4`).

They differ in their learning rate, and with LoRA in their rank; the seed is the same, so they see the same images. Each
row is a process of its own on all cores that it may use, which has done one training step of the kind before: imports
are not counted. Embeddings are not cached: where a trial alone reads them from disk (`embeddings: cache`, the benchmark
`shared_encoder`), a pack has little left to share.

`python -m benchmarks.packs decoder` does the rows with that word in their name.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from segdist.core.spec import RunSpec
from segdist.engine.fit import Metrics, fit
from segdist.engine.packs import Pack
from segdist.engine.runtime import peak_bytes
from segdist.formats.synthetic import Format, Options

RATES, RANKS = (1e-3, 5e-4, 2e-4, 1e-4), (2, 4, 8, 16)
EPOCHS, BATCH, TRAIN, VAL, SIZE = 4, 4, 24, 8, 128
TARGET = 2.0
_SAM: dict[str, Any] = {"size": "vit_b", "weights": "random"}
_IN_DECODER = {"kind": "lora", "targets": ["mask_decoder.*q_proj", "mask_decoder.*v_proj"]}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "SAM vit_b, decoder": ("sam", _SAM, {"kind": "frozen_encoder"}),
    "SAM vit_b, LoRA in the decoder": ("sam", _SAM, _IN_DECODER),
    "SAM vit_b, LoRA in the encoder": ("sam", _SAM, {"kind": "lora"}),
    "Mask2Former swin_tiny, decoder": (
        "mask2former",
        {"size": "swin_tiny", "weights": "random"},
        {"kind": "frozen_encoder"},
    ),
    "Mask2Former swin_tiny, LoRA in the decoder": (
        "mask2former",
        {"size": "swin_tiny", "weights": "random"},
        {"kind": "lora", "targets": ["transformer_module.decoder.*q_proj", "transformer_module.decoder.*v_proj"]},
    ),
    "Mask2Former debug, LoRA": ("mask2former", {"weights": "random"}, {"kind": "lora"}),
}
_Found = tuple[float, float, float, list[list[float]]]


def main(words: Sequence[str] = ()) -> None:
    """Print the makespan of the four, one after the other and as a pack."""
    header = f"{'4 trainings':44}{'':15}{'seconds':>9}{'CPU-s':>8}{'peak GB':>9}{'val/iou apart':>15}"
    print(header)
    for kind in (kind for kind in KINDS if all(word in kind for word in words)):
        alone, packed = (_in_a_process(kind, is_packed=is_packed) for is_packed in (False, True))
        for name, found in (("one by one", alone), ("pack", packed)):
            said = ""
            if found is packed:
                apart = max(
                    abs(a - b) for x, y in zip(alone[3], packed[3], strict=True) for a, b in zip(x, y, strict=True)
                )
                faster = alone[0] / found[0]
                verdict = "met" if faster >= TARGET else "MISSED"
                said = f"{apart:15.1e}   x{faster:.2f} (CPU x{alone[1] / found[1]:.2f}), target x{TARGET}: {verdict}"
            print(f"{kind:44}{name:15}{found[0]:9.1f}{found[1]:8.1f}{found[2]:9.1f}{said}", flush=True)


def _in_a_process(kind: str, *, is_packed: bool) -> _Found:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_trained, kind, is_packed=is_packed).result()


def _trained(kind: str, *, is_packed: bool) -> _Found:
    """Seconds, CPU seconds, the peak of memory in GB, and val/iou of each training after each epoch."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    drawn = Format(Options(scene="roofs", count=TRAIN + VAL, size=SIZE, seed=3))
    rows = [(sample, drawn.image_bytes(sample)) for sample in drawn.read(lambda _: None)]
    fit(_run(kind, 0, epochs=1), ("roof",), train=rows[:1], val=rows[-1:], report=lambda *_: None)
    scores: list[list[float]] = [[] for _ in RATES]
    pack, started, cpu = Pack(), time.perf_counter(), time.process_time()

    def train(number: int) -> None:
        def report(metrics: Metrics, _: Path | None) -> None:
            scores[number].append(metrics["val/iou"])

        def begin(member: Any) -> None:
            data: dict[str, Any] = {"train": rows[:TRAIN], "val": rows[TRAIN:], "report": report}
            fit(_run(kind, number, epochs=EPOCHS), ("roof",), **data, member=member)

        if is_packed:
            with pack.member() as member:
                begin(member)
        else:
            begin(None)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(len(RATES))]
    for thread in threads:
        thread.start()
        if not is_packed:
            thread.join()
    for thread in threads:
        thread.join()
    assert not pack.refused, pack.refused
    return time.perf_counter() - started, time.process_time() - cpu, peak_bytes() / 1e9, scores


def _run(kind: str, number: int, *, epochs: int) -> RunSpec:
    family, options, adapter = KINDS[kind]
    rank = {"rank": RANKS[number]} if adapter["kind"] == "lora" else {}
    return RunSpec.model_validate(
        {
            "model": {"family": family, family: {**options, "image_size": SIZE}},
            "train": {
                "epochs": epochs,
                "batch_size": BATCH,
                "lr": RATES[number],
                "adapter": {**adapter, **rank},
                "precision": "float32",
                "checkpoint_every": epochs,
            },
            "evaluate": {"pictures": 0, "prompts": "box" if family == "sam" else "none"},
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
