"""The steps of tools/check_gpu.py: what has to be seen on a GPU, each in a process of its own.

    python -m benchmarks.gpu STEP [--device cuda] [--size full]

A step prints one JSON object as its last line: figures, and "problems" where something differs.
"""
