"""Training, of images and clips alike."""
