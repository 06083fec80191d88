"""The Program: a captured model in ATen ops and the gnn dialect, with what an exporter must know."""
