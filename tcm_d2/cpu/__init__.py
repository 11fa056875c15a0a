"""What exists only to be fast on a CPU: kernels behind ordinary modules."""
