"""Networks of transformers with pretrained weights: loaded whole, or refused with what is missing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError
from transformers.utils import logging

from segdist.errors import WeightsError
from segdist.weights import Published


def load(
    network_class: Any, published: Published, weights: str, *, untrained: tuple[str, ...], overrides: Mapping[str, Any]
) -> Any:
    """A network of transformers; layers whose shape depends on classes or options start untrained.

    Args:
        network_class: a class of transformers with `from_pretrained`.
        published: what the family takes.
        weights: a folder, a URI, or a name on the hub.
        untrained: prefixes of the names of tensors that may be missing or of another shape.
        overrides: keys of the configuration.

    Raises:
        WeightsError: the weights are not there, cannot be read, or are not those of a whole network.
    """
    network, report = _pretrained(network_class, published, weights, overrides)
    new = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if lacking := sorted(key for key in new if not key.startswith(untrained)):
        raise WeightsError(
            f"The weights {weights} must fit `{published.model_type}` whole, but {len(lacking)} tensors are missing or "
            f"of another shape ({', '.join(lacking[:3])}, ...). {published.how_to_get}"
        )
    return network


def _pretrained(network_class: Any, published: Published, weights: str, overrides: Mapping[str, Any]) -> Any:
    try:
        with _quietly():
            return network_class.from_pretrained(
                published.source(weights),
                use_safetensors=True,  # never a pickle from outside
                ignore_mismatched_sizes=True,  # `load` looks at what did not fit
                output_loading_info=True,
                **overrides,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # not found, offline, bad config, damaged
        raise WeightsError(
            f"The weights {weights}, neither a complete folder here nor a reachable name on the hub, cannot be loaded: "
            f"{error} {published.how_to_get}"
        ) from error


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
