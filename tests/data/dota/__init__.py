"""Tests of data/dota."""
