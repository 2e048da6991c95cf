"""Plans, solvers and the drivers that run them; needs NumPy alone, and works on torch tensors too."""
