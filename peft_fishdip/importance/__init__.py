"""Scores of parameters from training examples (Eq. 1 and 2 of the paper)."""
