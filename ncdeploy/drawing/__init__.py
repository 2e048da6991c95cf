"""Samples and measurements as pictures: NumPy and Pillow."""
