"""1 x 1 convolutions on a CPU: who computes them, and that nothing else changes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

from segdist.engine.pointwise import hastened

SLOW = "aten::_slow_conv2d_forward"


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(6, 32, 1),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.Conv2d(32, 8, 1, groups=2),
        nn.Conv2d(8, 4, 1, stride=2),
    )


def computed(by: nn.Module, x_BCHW: Tensor) -> tuple[Tensor, set[str]]:
    with torch.inference_mode(), profile() as seen:
        found = by(x_BCHW)
    return found, {event.name for event in seen.function_events}


@pytest.mark.usefixtures("one_thread")
def test_a_small_batch_on_one_thread_goes_to_onednn_and_the_result_stays() -> None:
    x_BCHW, of = torch.randn(8, 6, 24, 24), network()
    plain, names = computed(of, x_BCHW)
    assert SLOW in names, "else there is nothing to mend"
    with hastened(of, torch.device("cpu")):
        quick, names = computed(of, x_BCHW)
    assert SLOW not in names
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("device", "by"), [("cpu", (2, 2)), ("cuda", (1, 1))])
def test_only_kernels_of_one_pixel_without_a_stride_are_touched_and_only_on_a_cpu(
    device: str, by: tuple[int, int]
) -> None:
    of = network()
    with hastened(of, torch.device(device)):
        assert [c.dilation for c in of.children()] == [by, (1, 1), by, (1, 1)]
    assert {c.dilation for c in of.children()} == {(1, 1)}
