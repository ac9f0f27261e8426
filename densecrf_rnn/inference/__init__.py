"""Mean-field inference on NumPy arrays: of one image in memory, and of images in parts."""
