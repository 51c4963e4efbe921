"""What decoding under a grammar changes: malformed outputs, scores and time, with and without.

`python -m benchmarks.decoding measure --data DIR --model DIR`, then `python -m benchmarks.decoding report`.
"""
