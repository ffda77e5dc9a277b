"""The state of a sweep, without Ray: the ledger of its trials, what Optuna proposes next, and what is stopped."""

from segdist.searching.ledger import Best, Epoch, Ledger, Saved, Trial
from segdist.searching.search import Search

__all__ = ["Best", "Epoch", "Ledger", "Saved", "Search", "Trial"]
