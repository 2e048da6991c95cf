"""Measuring samples: distances between sets (NumPy) and the HTML page that shows a run."""
