"""Prompt strategies: one file each."""
