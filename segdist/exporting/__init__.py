"""A trained model as other runtimes and hubs take it."""
