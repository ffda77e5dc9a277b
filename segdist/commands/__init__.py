"""One act a file, without Ray: a model or data by name, evaluate, checkpoints, compare, diff, promote, plan, export."""
