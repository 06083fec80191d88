"""Quantisation-aware training: calibrate, learn steps and widths, snap widths to containers."""
