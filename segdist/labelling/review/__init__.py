"""Labels that people look at: a queue, files for annotation tools, a gallery, and the corrected masks' way back."""
