"""A page that shows an evaluation: one HTML file that needs nothing else."""
