"""What Fish-Dip costs beside its peers: time, memory, decoding, files, and how the cost grows with the model.

`python -m benchmarks.speed` measures; it is a benchmark, not a test of times.
"""
