"""Optimizers for sparse deltas, and optimizer state across mask changes."""
