"""Graphs with a sampler in them: what they say of themselves, what they read, and running them. Never imports torch."""
