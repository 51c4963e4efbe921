"""What Fish-Dip costs beside other methods: time, memory, decoding, files, and how the cost grows with the model.

`python -m benchmarks.speed` measures and reports. These are benchmarks: no test depends on their times.
"""
