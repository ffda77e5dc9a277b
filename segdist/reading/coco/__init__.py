"""COCO's way to write images and objects down: read in pieces and checked, written, and shared by formats like it."""
