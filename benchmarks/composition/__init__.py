"""A language and a task, learned apart and put together: does a delta of raw text help where no label is?

`python -m benchmarks.composition measure --data DIR --model DIR`, then `python -m benchmarks.composition report`.
"""
