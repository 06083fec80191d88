"""Metrics, intervals, timing and what machine they were taken on. Free of torch."""
