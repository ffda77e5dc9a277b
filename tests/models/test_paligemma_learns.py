"""From pixels to text to pixels: the random debug size overfits 32 drawn images."""

import numpy as np
import pytest
import torch

from segdist.core.spec import EvaluateSpec
from segdist.engine.predict import predict
from segdist.formats.synthetic import Format, Options
from segdist.metrics import evaluate
from segdist.models.paligemma import FAMILY
from segdist.models.paligemma import Options as PaliGemmaOptions
from segdist.models.paligemma.network import build
from segdist.reading.examples import make_example

CLASSES = ("roof", "seam")
STEPS = 500


@pytest.mark.slow
def test_the_debug_size_overfits_32_drawn_images() -> None:
    drawings = Format(Options(scene=("seams", "roofs"), count=32, size=64, seed=3))
    rows = [(sample, drawings.image_bytes(sample)) for sample in drawings.read(lambda _: None)]
    torch.manual_seed(0)
    network = build(PaliGemmaOptions.model_validate({**FAMILY.debug, "max_objects": 6}), CLASSES).train()
    rng = np.random.default_rng(0)
    examples = [make_example(s, content, classes=CLASSES, image_size=64, rng=rng) for s, content in rows]
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        some = rng.permutation(32)[:16]
        loss = network(network.collate([examples[n] for n in some]))["text"]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rates.step()
    found = [prediction for _, _, prediction in predict(network, rows, EvaluateSpec())]
    values = evaluate([s for s, _ in rows], found, classes=CLASSES, min_score=0.3, metrics=["iou"])
    assert values["iou"] >= 0.6
