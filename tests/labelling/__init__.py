"""Tests of what happens to a teacher's masks."""
