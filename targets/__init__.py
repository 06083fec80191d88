"""Targets turn a Program into files that a runtime executes; one file or folder a target."""
