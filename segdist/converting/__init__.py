"""From one format into another, and what that loses."""
