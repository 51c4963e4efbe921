"""Fish-Dip beside other ways to fine-tune, under one loop: `python -m benchmarks compare --help`.

Layout and result files follow PEFT's method_comparison: a folder `experiments/<method>/<name>/` with an
`adapter_config.json` (none: full fine-tuning), a `training_params.json`, or both is one way to train.
"""
