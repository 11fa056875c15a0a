"""Tests of the documents: links, commands, examples."""
