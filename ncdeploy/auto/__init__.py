"""What `window="auto"` rests on: latency, measured and kept; rehearsals of a plan; the choice. NumPy alone."""
