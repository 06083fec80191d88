"""Load a bundle and run it; one backend a file. Free of torch."""
