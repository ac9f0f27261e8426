"""Mean-field inference of one image or tile on NumPy arrays."""
