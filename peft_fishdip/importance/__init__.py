"""From training examples to a score for each parameter (Eq. 1 and 2 of the paper)."""
