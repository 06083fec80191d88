"""What must hold of every bundle: graphs that break careless lowerings, and laws of message passing. Free of torch."""
