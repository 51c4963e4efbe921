"""Pretraining of `nano`, a small T5 of our own: `python -m benchmarks.pretrain --help`.

Data flows one way: text -> shards -> order -> corruption -> batches -> loop -> checkpoint -> export.
"""
