"""Settings for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# More threads than a small machine has cores make torch and ONNX Runtime wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "2")

# The same examples on every run; how long one takes says nothing about the code.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.load_profile("repeatable")
