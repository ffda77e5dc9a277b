"""What a checkpoint folder holds. The driver of a search needs to know, and does not need torch: half a gigabyte."""

MODEL, PICTURES, TRAINING = "model", "pictures", "training.pt"
"""The model, its validation panels, and what training needs to go on."""
