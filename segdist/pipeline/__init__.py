"""What runs on Ray."""
