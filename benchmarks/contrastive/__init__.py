"""What the contrastive loss does: `python -m benchmarks.contrastive` runs the study, see README.md beside."""
