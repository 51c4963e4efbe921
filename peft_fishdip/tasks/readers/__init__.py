"""Readers of the original file formats, each from a path to a list of records."""
