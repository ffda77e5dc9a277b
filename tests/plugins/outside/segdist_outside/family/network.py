"""The torch side of the family."""

from torch import Tensor, nn

from segdist.nets.semantic import SemanticSegmenter
from segdist_outside.family import Options


class Tiny(SemanticSegmenter):
    """Convolutions that look further and further, at half the image's resolution."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)
        width = options.width
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, stride=2, padding=1)]
        for reach in (1, 2, 4, 1):
            layers += [nn.GroupNorm(1, width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=reach, dilation=reach)]
        self.encoder = nn.Sequential(*layers, nn.ReLU())
        self.head = nn.Conv2d(width, 1 + len(classes), 1)

    def logits(self, images_B3SS: Tensor) -> Tensor:
        """(B, K, S / 2, S / 2), background first."""
        logits_BKhw: Tensor = self.head(self.encoder(images_B3SS))
        return logits_BKhw


def build(options: Options, classes: tuple[str, ...]) -> Tiny:
    """The network, untrained."""
    return Tiny(options, classes)
