"""Run small models in ONNX Runtime, to time lowerings against each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime

from gnnexport.targets.onnx.tape import sizes

_ERRORS_ONLY = 3


def open_model(model: ir.Model, threads: int, seed: int) -> Callable[[], object]:
    """Open a model and return a function that runs it once on random values."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        feeds[value.name] = random.standard_normal(sizes(value)).astype(value.dtype.numpy())
    return lambda: session.run(None, feeds)
