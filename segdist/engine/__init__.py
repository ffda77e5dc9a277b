"""What happens on one worker, in plain torch."""
