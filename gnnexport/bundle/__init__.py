"""The deployable folder: its manifest, its files, its test vectors and its report. Free of torch."""
