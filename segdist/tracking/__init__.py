"""Every sweep and every trial, kept in MLflow; the only package that imports it.

One parent run a sweep, one child run a trial. The driver is the only writer. Everything goes through `MlflowClient`
with explicit ids: no global run, no autolog, so that several sweeps and processes never mix.
"""

from segdist.tracking import names
from segdist.tracking.tracker import Tracker
from segdist.tracking.values import DatasetInfo, Measured, SweepRecord, TrialRecord, TrialStatus

__all__ = ["DatasetInfo", "Measured", "SweepRecord", "Tracker", "TrialRecord", "TrialStatus", "names"]
