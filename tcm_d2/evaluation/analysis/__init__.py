"""What an evaluation knows beside the AP: numbers, files, plots."""
