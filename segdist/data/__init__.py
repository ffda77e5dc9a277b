"""What happens to samples whatever their format."""
