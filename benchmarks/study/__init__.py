"""The study: what Fish-Dip is good for on pretrained models with few examples, and what it is not.

Each cell of it, a model with so many training examples, is a comparison with fixed arguments, whose runs lie in a
folder of its name beside the report. `python -m benchmarks.study` makes runs that are missing, and the report of all
that there are.
"""
