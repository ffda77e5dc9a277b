"""A backbone of timm as the encoder of a U-Net: features at several scales, pretrained or not.

Shapes: B images, C channels, H and W pixels.
"""

from torch import Tensor, nn

from segdist.models.unet_cbam import NAME, Options
from segdist.nets import timm_features


class Backbone(nn.Module):
    """Features of a timm model, the finest first.

    Attributes:
        channels: of each feature map.
        mean: of each colour, in 0..255, as the model was trained with.
        std: of each colour, in 0..255.
        layout: of the tensors of a network that begins with it.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.body = timm_features.features(
            options.backbone, options.weights, image_size=options.image_size, family=NAME
        )
        self.channels: list[int] = self.body.feature_info.channels()
        self.mean, self.std = timm_features.colours(self.body)
        self.layout = timm_features.layout(self.body)
        timm_features.freeze_unused(self.body, options.image_size)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Feature maps, (B, C, H / stride, W / stride) each."""
        found = zip(self.body(images_BCHW), self.channels, strict=True)
        # Transformers of timm put channels last.
        return [f if f.shape[1] == channels else f.permute(0, 3, 1, 2) for f, channels in found]
