"""The state of a sweep, without Ray: its ledger, what its trials cost, what Optuna proposes next, what is stopped."""

from segdist.searching.ledger import Best, Epoch, Ledger, Saved, Trial
from segdist.searching.search import Search

__all__ = ["Best", "Epoch", "Ledger", "Saved", "Search", "Trial"]
