"""Sparse weights: which entries stay, how they are found, and training that leaves the others at zero."""
