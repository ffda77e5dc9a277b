"""Models kept during training, training that begins with one, and the loss over images held out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from segdist.core.errors import WeightsError
from segdist.engine import checkpoint
from segdist.engine.fit import fit
from segdist.engine.validation_loss import mean_loss
from tests.engine.drawn import CLASSES, Reports, roofs, tiny_run


def test_every_so_many_steps_a_model_is_kept_that_measures_and_trains_on(tmp_path: Path) -> None:
    drawn, kept = roofs(6), tmp_path / "kept"
    run = tiny_run(epochs=2, batch_size=2, keep_every=2)
    fit(run, CLASSES, train=drawn, val=drawn[:1], report=Reports(), kept=str(kept))
    assert sorted(p.name for p in kept.iterdir()) == ["step-0000002", "step-0000004", "step-0000006"]
    last = kept / "step-0000006"
    network = checkpoint.load(last)
    one, same = (mean_loss(network, drawn, family="unet_cbam", batch_size=2)["loss"] for _ in range(2))
    assert one == same
    begun = checkpoint.build(run.model, CLASSES, seed=5)
    checkpoint.init_from(begun, str(last), run.model, CLASSES)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in begun.state_dict().items())
    first, fresh = Reports(), Reports()
    fit(tiny_run(init_from=str(last), lr=1e-9), CLASSES, train=drawn, val=drawn[:1], report=first)
    fit(tiny_run(lr=1e-9), CLASSES, train=drawn, val=drawn[:1], report=fresh)
    assert first.metrics[0]["train/loss"] < fresh.metrics[0]["train/loss"]


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    drawn = roofs(2)
    fit(tiny_run(), CLASSES, train=drawn, val=drawn[:1], report=Reports(), kept=str(tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()
    assert tiny_run(keep_every=3).fingerprint == tiny_run().fingerprint


def test_the_loss_is_the_mean_over_images() -> None:
    drawn = roofs(3)
    network = checkpoint.build(tiny_run().model, CLASSES)
    whole = mean_loss(network, drawn, family="unet_cbam", batch_size=1)["loss"]
    each = [mean_loss(network, drawn[k : k + 1], family="unet_cbam", batch_size=1)["loss"] for k in range(3)]
    assert whole == pytest.approx(np.mean(each))
    assert mean_loss(network, [], family="unet_cbam", batch_size=1) == {}


def test_training_begins_only_with_a_model_of_its_own_kind(tmp_path: Path) -> None:
    run = tiny_run()
    network = checkpoint.build(run.model, CLASSES)
    with pytest.raises(WeightsError, match="must be a folder or URI of a segdist model"):
        checkpoint.init_from(network, str(tmp_path / "nowhere"), run.model, CLASSES)
    checkpoint.save(network, tmp_path / "model", run, CLASSES)
    with pytest.raises(WeightsError, match="with classes crack, but"):
        checkpoint.init_from(network, str(tmp_path / "model"), run.model, ("crack",))
