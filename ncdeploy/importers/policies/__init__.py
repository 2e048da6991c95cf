"""Robot policies: a denoiser of action chunks, with what goes before it and after it as graphs of their own."""
