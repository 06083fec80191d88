"""Run small models in ONNX Runtime, to time lowerings against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from gnnexport.runtime.ort import offer_kernels

_ERRORS_ONLY = 3


def open_model(model: ir.Model, threads: int, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
    """Open a model and return a function that runs it once on inputs given by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    offer_kernels(options)
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    given = {item.name: feeds[item.name] for item in session.get_inputs()}
    return lambda: session.run(None, given)
