"""Wu et al. 2024 put to the test on points of the plane."""
