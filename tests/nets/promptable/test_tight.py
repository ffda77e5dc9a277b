"""Masks that end at their boxes' sides, and reach them where the logits let them; answers to moved boxes, averaged."""

import numpy as np
import pytest
import torch

from segdist.nets.promptable.moved import averaged, moved_boxes
from segdist.nets.promptable.network import DecodedMasks
from segdist.nets.promptable.shown import PromptBatch
from segdist.nets.promptable.tight import within_boxes


def bump(reach: float) -> np.ndarray:
    """Logits of a blurred disc: 2 in the middle, falling by one each `reach` pixels from the centre."""
    y, x = np.mgrid[0:40, 0:60]
    return (2 - np.hypot(x - 30, y - 20) / reach).astype(np.float32)


def test_nothing_lies_outside_the_box() -> None:
    (found,) = within_boxes(np.full((1, 40, 60), 5, np.float32), [(10, 5, 30, 20)])
    assert found.sum() == 20 * 15
    assert found[5:20, 10:30].all()


def test_a_mask_that_falls_short_of_its_box_grows_to_the_sides_and_no_further() -> None:
    logits = bump(4.0)[None]  # its zero lies 8 pixels from the centre, its -2 at 16
    (short,) = logits > 0
    box = (18.0, 8.0, 42.0, 32.0)
    (found,) = within_boxes(logits, [box])
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (8, 31, 18, 41)
    assert short.sum() < found.sum() < 24 * 24, "a disc still"


def test_a_mask_that_reaches_the_sides_stays_as_it_is() -> None:
    logits = bump(8.0)[None]
    (found,) = within_boxes(logits, [(20.0, 10.0, 40.0, 30.0)])
    assert (found == (logits[0] > 0))[10:30, 20:40].all()


def test_where_there_is_nothing_there_stays_nothing() -> None:
    (found,) = within_boxes(np.full((1, 40, 60), -20, np.float32), [(10, 5, 30, 20)])
    assert not found.any()


def test_boxes_are_moved_by_a_twentieth_of_their_sides_and_points_are_left_alone() -> None:
    boxes = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    moved = [tuple(one.boxes_N4[0].tolist()) for one in moved_boxes(PromptBatch(boxes)) if one.boxes_N4 is not None]
    assert moved == [(11, 12, 29, 48), (9, 8, 31, 52), (11, 8, 31, 48), (9, 12, 29, 52)]
    assert not moved_boxes(PromptBatch(boxes, torch.ones(1, 1, 2), torch.ones(1, 1)))


def test_the_mean_of_answers_is_the_mask_and_their_agreement_its_stability() -> None:
    def answer(*logits: float) -> DecodedMasks:
        return DecodedMasks(torch.tensor(logits).view(1, 1, 1, -1), torch.tensor([[logits[0]]]), torch.zeros(1, 1, 4))

    found, agreed_NM = averaged([answer(1, 1, -1, -3), answer(3, -2, -1, -3), answer(2, 4, -1, -3)])
    assert found.logits_NMhw.flatten().tolist() == [2, 1, -1, -3]
    assert found.iou_NM.item() == 2
    assert agreed_NM.item() == pytest.approx((1 + 0.5 + 1) / 3)
