"""Tests of visualize."""
