"""What a contract of model families runs over: the debug size of each, and further modes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from segdist.core import registry
from segdist.core.plugins import Family, ModelOptions, declaration
from segdist.nets.segmenter import Segmenter, Traceable
from segdist.testing.pictures import CLASSES

Modes = Mapping[str, Mapping[str, object]]
"""Options beside the debug ones, by the name of the mode."""


@dataclass(frozen=True)
class Variant:
    """A family in one mode."""

    family: str
    mode: str = "debug"
    further: Mapping[str, object] = field(default_factory=dict, compare=False)
    """Options beside the debug ones."""

    def __str__(self) -> str:
        return f"{self.family}-{self.mode}"

    @property
    def declared(self) -> Family:
        """What the family declares."""
        return declaration(self.family)

    @property
    def options(self) -> ModelOptions:
        """The debug ones, and those of the mode."""
        return self.declared.options.model_validate({**self.declared.debug, **self.further})

    @property
    def takes_boxes(self) -> bool:
        """Whether it predicts from boxes."""
        return "box" in self.declared.prompts(self.options)

    def build(self, seed: int = 0) -> Segmenter:
        """The network, for `pictures.CLASSES`."""
        torch.manual_seed(seed)
        network = registry.load_network(self.family).build(self.options, CLASSES)
        assert isinstance(network, Segmenter)
        assert isinstance(network, Traceable) or not self.declared.onnx(self.options)
        return network

    def weighted(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss terms as one, with the family's weights."""
        return torch.stack([self.declared.losses[name] * value for name, value in terms.items()]).sum()


class FamilyTests:
    """Tests over model families; pytest gives what they name.

    A test with the argument `variant` runs over every mode of every family, with `debug` over the debug ones, with
    `learner` over those that are quick and tell classes apart, and with `variant` and `kind` over adapters too.
    """

    families: ClassVar[Mapping[str, Modes]]
    """The families, and of each the modes to test beside its debug one."""
    quick: ClassVar[Collection[str]] = ()
    """Variants such as `sam-box` that are tested by default beside the debug ones; all others are marked `slow`."""
    class_agnostic: ClassVar[Collection[str]] = ()
    """Variants that find every object of a picture, whatever its class."""

    @classmethod
    def variants(cls) -> list[Variant]:
        """All variants. A family without losses is a teacher, which trains in no test."""
        modes = {family: {"debug": {}, **cls.families[family]} for family in cls.families if declaration(family).losses}
        return [Variant(family, mode, more) for family, of_it in modes.items() for mode, more in of_it.items()]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Called by pytest for each test."""
        asked, variants = metafunc.fixturenames, self.variants()
        if "kind" in asked:
            pairs = [(v, kind) for v in variants for kind in v.declared.adapters]
            wanted = [(v, kind) for v, kind in pairs if v.mode == "debug" or kind in _USUAL]
            marked = [pytest.param(v, k, marks=_slow(unless=v.mode == "debug" and k in _USUAL)) for v, k in wanted]
            metafunc.parametrize(("variant", "kind"), marked, ids=str)
        elif "variant" in asked:
            metafunc.parametrize(
                "variant", [pytest.param(v, marks=_slow(unless=self._quick(v))) for v in variants], ids=str
            )
        elif "learner" in asked:
            learners = [v for v in variants if self._quick(v) and str(v) not in self.class_agnostic]
            metafunc.parametrize("learner", learners, ids=str)
        elif "debug" in asked:
            metafunc.parametrize("debug", [v for v in variants if v.mode == "debug"], ids=str)

    def _quick(self, variant: Variant) -> bool:
        return variant.mode == "debug" or str(variant) in self.quick


_USUAL = ("full", "lora")
"""The adapters that are tested by default, and the only ones in modes that are not debug."""


def _slow(*, unless: bool) -> list[pytest.MarkDecorator]:
    return [] if unless else [pytest.mark.slow]
