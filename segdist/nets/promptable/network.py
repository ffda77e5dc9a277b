"""A network behind prompts: its encoder runs once an image, or never again where embeddings are cached.

Shapes: B images, N prompts over all images of a batch, M masks a prompt, C channels, h x w mask logits.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segdist.core.errors import SpecError
from segdist.core.plugins import Batch, ImageHWC
from segdist.nets.collate import stack_images
from segdist.nets.promptable.embeddings import EmbeddingCache, Features
from segdist.nets.promptable.options import PromptableOptions
from segdist.nets.promptable.shown import PromptBatch
from segdist.nets.segmenter import Traceable


class DecodedMasks(NamedTuple):
    """What the decoder says to N prompts: mask logits, predicted IoU, and the token each mask was read from."""

    logits_NMhw: Tensor
    iou_NM: Tensor
    tokens_NMC: Tensor


class PromptableNetwork(Traceable):
    """An image encoder that runs once an image, and a decoder that runs once a prompt.

    A family gives `encode`, `decode` and `encoder_modules`, and freezes what its mode never uses.
    """

    options: PromptableOptions

    def __init__(self, options: PromptableOptions, classes: tuple[str, ...], *, embed_dim: int) -> None:
        super().__init__(options, classes)
        if options.prompt == "class":
            self.class_tokens = nn.Parameter(torch.randn(len(classes), options.class_tokens, embed_dim))
        if options.prompt == "everything":
            self.class_head = nn.Linear(embed_dim, len(classes) + 1)
        self._cache: EmbeddingCache | None = None

    @abstractmethod
    def encode(self, images_BCHW: Tensor) -> Features:
        """What the decoder needs to know of each image: levels, images first."""

    def embed(self, images_BCHW: Tensor) -> Features:
        """What the decoder reads of each image."""
        return self.project(self.encode(images_BCHW))

    def project(self, features_B: Features) -> Features:
        """Trained layers between what may be cached and the decoder; none by default."""
        return features_B

    @abstractmethod
    def decode(self, features_N: Features, shown: PromptBatch) -> DecodedMasks:
        """Masks for N prompts, each with the features of its image."""

    @property
    @abstractmethod
    def encoder_modules(self) -> Sequence[nn.Module]:
        """The modules that `encode` runs, whose weights name cached embeddings."""

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.parameters()).device

    def prepare_collating(self) -> None:
        """Cached embeddings are named by the weights, which may have been trained since."""
        self._cache = None
        if self._uses_cache():
            self._opened_cache()

    def images_of(self, images: Sequence[ImageHWC]) -> Batch:
        """The images that have to be encoded, and cached embeddings of the others."""
        mean, std = self.colours
        if not self._uses_cache():
            return {"images": stack_images(images, self.options.image_size, mean=mean, std=std)}
        cache = self._opened_cache()
        keys = [cache.key(image) for image in images]
        known = [cache.read(key) for key in keys]
        missing = [i for i, levels in enumerate(known) if levels is None]
        return {
            "images": stack_images([images[i] for i in missing], self.options.image_size, mean=mean, std=std),
            "missing": missing,
            "keys": keys,
            "known": [[] if levels is None else levels for levels in known],
        }

    def features_of(self, batch: Batch) -> Features:
        """The embeddings of all images of a batch; those computed here are kept."""
        if "known" not in batch:
            # One after the other: trainings of a pack that differ in what is between have the encoder in common.
            return self.computed("project", self.computed("encode", batch["images"].to(self.device)))
        known: list[Features] = list(batch["known"])
        for i, levels in self._encoded(batch["images"], {i: batch["keys"][i] for i in batch["missing"]}):
            known[i] = levels
        return self.project(
            [torch.stack([v.to(self.device) for v in levels]).float() for levels in zip(*known, strict=True)]
        )

    def _encoded(self, images_BCHW: Tensor, keys: Mapping[int, str]) -> Iterator[tuple[int, Features]]:
        """The embedding of each image by its index among the keys, in their order; all are kept.

        One half after the other: trials beside this one, which see the same images now, encode what it has not claimed.
        """
        cache, of_others = self._opened_cache(), list[tuple[int, Tensor]]()
        left = list(zip(keys, images_BCHW, strict=True))
        at_once = -(-len(left) // 2)
        while left:
            mine, left = left[:at_once], left[at_once:]
            claimed = {i for i, _ in mine if cache.claim(keys[i])}
            of_others += [one for one in mine if one[0] not in claimed]
            yield from self._encoded_here([one for one in mine if one[0] in claimed], keys)
        for i, image_CHW in of_others:
            levels = cache.awaited(keys[i])
            yield from [(i, levels)] if levels else self._encoded_here([(i, image_CHW)], keys)

    def _encoded_here(
        self, images: Sequence[tuple[int, Tensor]], keys: Mapping[int, str]
    ) -> Iterator[tuple[int, Features]]:
        if not images:
            return
        try:
            with torch.no_grad():
                images_BCHW = torch.stack([image_CHW for _, image_CHW in images]).to(self.device)
                computed = [level.half() for level in self.encode(images_BCHW)]
        except BaseException:  # as where memory does not suffice: others may have more
            for i, _ in images:
                self._opened_cache().release(keys[i])
            raise
        for n, (i, _) in enumerate(images):
            levels = [level[n] for level in computed]
            self._opened_cache().write(keys[i], levels)
            yield i, levels

    def _uses_cache(self) -> bool:
        """Whether embeddings are cached.

        Raises:
            SpecError: the encoder is being trained, so that its embeddings change with every step.
        """
        if self.options.embeddings != "cache":
            return False
        trained = any(p.requires_grad for module in self.encoder_modules for p in module.parameters())
        if trained and self.training:
            raise SpecError(
                "`embeddings: cache` must go with a frozen encoder, but this encoder is trained. "
                "Set `train.adapter.kind: frozen_encoder`, or `embeddings: compute`."
            )
        return not trained

    def _opened_cache(self) -> EmbeddingCache:
        if self._cache is None:
            options = self.options
            most = int(options.embeddings_gb * 1e9)
            self._cache = EmbeddingCache(self.encoder_modules, image_size=options.image_size, max_bytes=most)
        return self._cache
