"""Building engines for a runtime, and keeping them."""
