"""Passes take a Program and return one; one pass a file, the file name is the pass name."""
