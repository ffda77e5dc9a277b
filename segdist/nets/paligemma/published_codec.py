"""Google's mask codec, with which PaliGemma's published weights were trained; imports no torch."""

from segdist.core.published import PublishedWeights, WeightFile

CODEC = PublishedWeights(
    "vae-oid",
    "not stated (Google; the code beside it is Apache-2.0)",
    (
        WeightFile(
            "vae-oid.npz",
            "https://storage.googleapis.com/big_vision/paligemma/vae-oid.npz",
            8_479_556,
            "5586010257b8536dddefab65e7755077f21d5672d5674dacf911f73ae95a4447",
        ),
    ),
    option="codec",
)
