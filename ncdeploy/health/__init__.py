"""Engines and data judged by the residual energy: `check_engine`, and one-step denoising of unknown noise."""
