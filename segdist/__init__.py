"""segdist: images and a question in, the best fine-tuned segmentation model out."""
