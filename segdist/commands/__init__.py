"""One act a file, without Ray: evaluate, checkpoints, diff, promote, plan, export."""
