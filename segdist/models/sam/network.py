"""SAM as a family: the networks of `architecture` behind what all promptable families share.

Shapes: B images, N prompts over all images of a batch, M masks a prompt, C channels, h x w mask logits.
"""

from collections.abc import Sequence

from segment_anything.modeling import Sam
from torch import Tensor, nn

from segdist.models.sam import Options, architecture, weights, weights_file
from segdist.nets.promptable.network import DecodedMasks
from segdist.nets.promptable.segmenter import Promptable
from segdist.nets.promptable.shown import PromptBatch


def build(options: Options, classes: tuple[str, ...]) -> "SegmentAnything":
    """The network with the weights that the options name.

    Raises:
        WeightsError: the file is missing, damaged, or of another size.
    """
    file = weights_file(options)
    sam = getattr(architecture, options.size)(options.image_size)
    if file is not None:
        weights.load(sam, file, options)
    return SegmentAnything(options, classes, sam)


class SegmentAnything(Promptable):
    """An image encoder that runs once an image, and a decoder that runs once a prompt."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...], sam: Sam) -> None:
        super().__init__(options, classes, embed_dim=sam.prompt_encoder.embed_dim)
        self.image_encoder, self.prompt_encoder = sam.image_encoder, sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        for name, parameter in self.named_parameters():
            if name.startswith(_unused(options)):
                parameter.requires_grad = False

    def encode(self, images_BCHW: Tensor) -> list[Tensor]:
        """One level: the embedding of each image."""
        return [self.image_encoder(images_BCHW)]

    def decode(self, features_N: list[Tensor], shown: PromptBatch) -> DecodedMasks:
        """Masks of N prompts by SAM's own prompt encoder and decoder, or by learned tokens."""
        points = None if shown.points_NP2 is None else (shown.points_NP2, shown.is_object_NP)
        sparse_NTC, dense_NCHW = self.prompt_encoder(points=points, boxes=shown.boxes_N4, masks=None)
        if shown.tokens_NTC is not None:
            sparse_NTC, dense_NCHW = shown.tokens_NTC, dense_NCHW.expand(len(shown.tokens_NTC), -1, -1, -1)
        logits_NMhw, iou_NM, tokens_NMC = self.mask_decoder.decode(
            features_N[0], self.prompt_encoder.get_dense_pe(), sparse_NTC, dense_NCHW
        )
        drawn = slice(1, None) if self.options.masks == "best_of_three" else slice(0, 1)
        return DecodedMasks(logits_NMhw[:, drawn], iou_NM[:, drawn], tokens_NMC[:, drawn])

    @property
    def encoder_modules(self) -> Sequence[nn.Module]:
        """The image encoder."""
        return [self.image_encoder]


def _unused(options: Options) -> tuple[str, ...]:
    """Parameters that these options never use; a trained parameter without a gradient would stop DDP."""
    others = (1, 2, 3) if options.masks == "one" else (0,)
    heads = tuple(f"mask_decoder.output_hypernetworks_mlps.{i}." for i in others)
    return heads + tuple(f"prompt_encoder.{name}" for name in _unused_prompts(options))


def _unused_prompts(options: Options) -> tuple[str, ...]:
    """Of SAM's four embeddings of points, 0 is off the object, 1 on it, 2 and 3 are the corners of a box."""
    off, on, corners = "point_embeddings.0.", "point_embeddings.1.", ("point_embeddings.2.", "point_embeddings.3.")
    off_is_unused = () if options.points_per_object > 1 else (off,)
    # The tiny size sees a box as a mask too; the others never see a mask.
    masks = "mask_downscaling"
    if options.prompt == "class":
        return ("point_embeddings", "not_a_point_embed", masks)
    if options.prompt == "everything":
        return (off, *corners, masks)
    if options.prompt == "point":
        return (*off_is_unused, *corners, masks)
    if options.prompt == "mixed":
        return (*off_is_unused, *(() if options.size == "tiny" else (masks,)))
    other = "no_mask_embed" if options.size == "tiny" else masks
    return (off, "not_a_point_embed", other, *(() if options.point_share else (on,)))
