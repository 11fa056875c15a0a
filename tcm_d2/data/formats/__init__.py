"""Annotation files of other tools and data sets: one module a format, found by `contract`."""
