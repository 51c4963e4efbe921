"""Whether an adapter is exact on every architecture that transformers can build: gradients, merging, checkpointing."""
