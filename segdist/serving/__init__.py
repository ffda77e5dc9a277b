"""A model behind HTTP: what is asked, what is refused, and a page to try it on. Knows nothing of Ray."""
