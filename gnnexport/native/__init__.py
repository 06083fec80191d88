"""Our own kernels for the processor, as Python sees them; nothing here needs torch or an engine."""
