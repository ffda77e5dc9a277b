"""What model families share, in torch: collating, targets, matching, criteria, weights."""
