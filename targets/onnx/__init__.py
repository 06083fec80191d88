"""Lowering to ONNX: the dialect over onnx_ir, its rewriting to standard operators, and the files."""
