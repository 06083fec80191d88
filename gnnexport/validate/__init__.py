"""Prove a bundle on this machine from the files it ships. Free of torch."""
