"""Names of the tags and metrics by which segdist finds its runs in MLflow."""

KIND = "segdist.kind"
SWEEP = "sweep"
FINGERPRINT = "segdist.fingerprint"
METRIC = "segdist.metric"
STARTED = "segdist.started"  # milliseconds since 1970 of the last start or resumption
PARENT = "mlflow.parentRunId"  # what nests runs in MLflow's own pages
TRIAL = "segdist.trial"
NUMBER = "segdist.number"
SEARCHED = "segdist.searched"
END = "segdist.end"  # why a run ended
BEST = "best/"  # in front of a metric: its value in the epoch in which the search metric was highest
