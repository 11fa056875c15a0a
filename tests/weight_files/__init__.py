"""Tests of weight_files."""
