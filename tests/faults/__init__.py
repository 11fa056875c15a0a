"""Kills, hostile files and other faults."""
