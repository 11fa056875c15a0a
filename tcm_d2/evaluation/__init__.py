"""The DOTA protocol: merging, average precision, result files."""
