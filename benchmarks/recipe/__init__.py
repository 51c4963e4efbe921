"""Which optimizer, learning rate and delta scale to begin with: a token classifier, trained on a few sentences.

`python -m benchmarks.recipe measure --data DIR --model DIR`, then `python -m benchmarks.recipe report`.
"""
