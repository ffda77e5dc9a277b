"""Networks of transformers with pretrained weights: loaded whole, or refused with what is missing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights
from transformers.utils import logging

from segdist.core.errors import WeightsError
from segdist.core.text import counted
from segdist.nets import network_size, state_dicts
from segdist.nets.weights import Published

TOKENIZERS = ("tokenizer.json", "vocab.json")
_UNLOADABLE = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError, TypeError, KeyError,
               AttributeError, IndexError, ArithmeticError, AssertionError, MemoryError)  # fmt: skip
"""What transformers lets out where a configuration describes no network, or a file is damaged."""


class _LoadingInfo(TypedDict):
    """What transformers says about tensors that did not fit: their names, and the shapes of both sides."""

    missing_keys: set[str]
    mismatched_keys: set[tuple[str, object, object]]


def load(
    network_class: type[PreTrainedModel],
    published: Published,
    weights: str,
    *,
    untrained: tuple[str, ...],
    overrides: Mapping[str, object],
    heads: tuple[str, ...] = (),
) -> PreTrainedModel:
    """A network of transformers; layers whose shape depends on classes or options start untrained.

    Args:
        network_class: a class of transformers with `from_pretrained`.
        published: what the family takes.
        weights: a folder, a URI, or a name on the hub.
        untrained: prefixes of the names of tensors that may be missing or of another shape.
        overrides: keys of the configuration.
        heads: prefixes of the parts that weights of an encoder lack; all of their tensors may be missing, not some.

    Raises:
        WeightsError: the weights are not there, cannot be read, or are not those of a whole network.
    """
    network, report = _pretrained(network_class, published, weights, overrides)
    new = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    named = [name for name, _ in network.named_parameters()]
    absent = tuple(head for head in heads if new.issuperset(name for name in named if name.startswith(head)))
    if lacking := sorted(key for key in new if not key.startswith((*untrained, *absent))):
        raise WeightsError(
            f"The weights {weights} must fit `{published.model_type}` whole, but "
            f"{counted(len(lacking), 'tensor is', 'tensors are')} missing or "
            f"of another shape ({', '.join(lacking[:3])}, ...). {published.how_to_get}"
        )
    return network


def tokenizer(published: Published, weights: str) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside the weights.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    with published.shown(weights) as folder:
        if not any((folder / name).is_file() for name in TOKENIZERS):  # transformers would make up an empty one
            raise WeightsError(
                f"The tokenizer must lie beside the weights {weights}, but there is none of {', '.join(TOKENIZERS)}. "
                f"{published.how_to_get}"
            )
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # what the Rust side of `tokenizers` raises has no narrower class
            raise WeightsError(
                f"The tokenizer must lie beside the weights {weights}, but cannot be read: {error}. "
                f"{published.how_to_get}"
            ) from error


def _pretrained(
    network_class: type[PreTrainedModel], published: Published, weights: str, overrides: Mapping[str, object]
) -> tuple[PreTrainedModel, _LoadingInfo]:
    try:
        with published.shown(weights) as folder, _quietly():
            for file in folder.glob("*.safetensors"):
                state_dicts.check_whole(file)
            config = network_class.config_class.from_pretrained(folder, local_files_only=True, **overrides)
            _check_size(network_class, config, folder)
            return network_class.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,  # never a pickle from outside
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # `load` looks at what did not fit
                output_loading_info=True,
            )
    except WeightsError as error:
        raise WeightsError(f"The weights {weights} cannot be loaded: {error}. {published.how_to_get}") from error
    except _UNLOADABLE as error:
        raise WeightsError(f"The weights {weights} cannot be loaded: {error} {published.how_to_get}") from error


def _check_size(network_class: type[PreTrainedModel], config: PretrainedConfig, folder: Path) -> None:
    """Build the network without memory for its tensors, and stop where it becomes larger than its files.

    Raises:
        WeightsError: config.json describes more than the files can hold.
    """
    held = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    with network_size.at_most(held, described="config.json"), no_init_weights(), torch.device("meta"):
        network_class(config)


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
