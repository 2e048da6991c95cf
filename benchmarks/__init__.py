"""What backs every number in README.md: `python -m benchmarks` runs all of it and prints Markdown tables."""
