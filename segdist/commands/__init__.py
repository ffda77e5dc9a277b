"""One act a file, without Ray: evaluate, diff, study, promote, plan, export."""
