"""Frontends: model and data files in, modules and graphs out, without running anything from a file."""
