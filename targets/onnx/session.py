"""Run models in ONNX Runtime, to time lowerings against each other, and operators one by one."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from gnnexport.runtime.ort import offer_kernels
from gnnexport.targets.onnx.shares import PROFILED_RUNS, Timed

_ERRORS_ONLY = 3
_RAN = "_kernel_time"
"""How the profile marks that a node ran."""


def open_model(model: ir.Model, threads: int, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
    """Open a model and return a function that runs it once on inputs given by name."""
    session = _session(model, threads, onnxruntime.SessionOptions())
    given = {item.name: feeds[item.name] for item in session.get_inputs()}
    return lambda: session.run(None, given)


def profile_model(model: ir.Model, threads: int, feeds: Mapping[str, NDArray[Any]]) -> list[Timed]:
    """Run a model a few times and return the median time of each node."""
    with tempfile.TemporaryDirectory(prefix="gnnexport-") as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _session(model, threads, options)
        given = {item.name: feeds[item.name] for item in session.get_inputs()}
        for _ in range(PROFILED_RUNS):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text())
    return _timed(events)


def _timed(events: Iterable[Mapping[str, Any]]) -> list[Timed]:
    runs: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith(_RAN):
            runs.setdefault((name.removesuffix(_RAN), event["args"]["op_name"]), []).append(event["dur"] / 1000)
    return [Timed(name, kind, statistics.median(ms[1:] or ms)) for (name, kind), ms in runs.items()]


def _session(model: ir.Model, threads: int, options: Any) -> Any:
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    offer_kernels(options)
    proto = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
