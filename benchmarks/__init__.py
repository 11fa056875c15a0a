"""The suites of `tools/benchmark.py`: one module each, with `add_arguments` and `run`."""
