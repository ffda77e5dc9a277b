"""What every annotated folder needs: listings, archives, images, classes, geometry, label maps."""
