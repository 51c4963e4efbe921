"""How adapters come into a model, and how their masks change."""
