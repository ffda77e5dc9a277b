"""Where the network's weights come from: a folder, the hub, or a random generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
from transformers.utils import logging

from segdist.errors import WeightsError
from segdist.models.mask2former import HOW_TO_GET, RANDOM, Options, check, local_folder

_BY_CLASS = ("class_predictor.", "criterion.")
_BY_QUERY = ("model.transformer_module.queries_",)


def load(options: Options, *, num_classes: int) -> Mask2FormerForUniversalSegmentation:
    """The network of transformers for this many classes; layers that depend on the classes start untrained.

    Raises:
        WeightsError: the weights are not there, cannot be read, or are not those of a whole Mask2Former.
    """
    if options.weights == RANDOM:
        return Mask2FormerForUniversalSegmentation(_small(options, num_classes))
    check(options)
    network, report = _pretrained(options, {"num_labels": num_classes, **_queries(options)})
    untrained = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    expected = _BY_CLASS if options.num_queries == "auto" else _BY_CLASS + _BY_QUERY
    if lacking := sorted(key for key in untrained if not key.startswith(expected)):
        raise WeightsError(
            f"The weights {options.weights} must fit Mask2Former whole, but {len(lacking)} tensors are missing or "
            f"of another shape ({', '.join(lacking[:3])}, ...). {HOW_TO_GET}"
        )
    return network


def _pretrained(options: Options, overrides: dict[str, int]) -> tuple[Any, dict[str, Any]]:
    source = local_folder(options.weights) or options.weights
    try:
        with _quietly():
            result: tuple[Any, dict[str, Any]] = Mask2FormerForUniversalSegmentation.from_pretrained(
                source,
                use_safetensors=True,  # never a pickle from outside
                ignore_mismatched_sizes=True,  # `load` looks at what did not fit
                output_loading_info=True,
                **overrides,
            )
    except (
        OSError,
        ValueError,
        RuntimeError,
        SafetensorError,
    ) as error:  # not found, offline, bad config, damaged file
        raise WeightsError(
            f"The weights {options.weights}, neither a complete folder here nor a reachable name on the hub, cannot "
            f"be loaded: {error} {HOW_TO_GET}"
        ) from error
    return result


def _queries(options: Options) -> dict[str, int]:
    return {} if options.num_queries == "auto" else {"num_queries": options.num_queries}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' table of new layers and its progress bar: `load` says what matters."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _small(options: Options, num_classes: int) -> Mask2FormerConfig:
    """1.5 M parameters: trains on a laptop's CPU."""
    backbone = SwinConfig(
        embed_dim=32,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 4, 8),
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=num_classes,
        num_queries=20 if options.num_queries == "auto" else options.num_queries,
        hidden_dim=64,
        feature_size=64,
        mask_feature_size=64,
        encoder_feedforward_dim=128,
        dim_feedforward=128,
        encoder_layers=2,
        decoder_layers=4,
        num_attention_heads=4,
    )
