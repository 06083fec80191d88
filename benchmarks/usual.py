"""The usual way to export: `torch.onnx.export` as it is by default, and a session of ONNX Runtime."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnxruntime


def export(model: Any, arguments: tuple[Any, ...], path: Path, input_names: list[str], **keywords: Any) -> Path:
    """Export a module of PyTorch and return `path`; `keywords` are those of `torch.onnx.export`."""
    import torch  # sessions do without it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, arguments, path, dynamo=True, input_names=input_names, verbose=False, **keywords)
    return path


def session(path: Path, threads: int) -> Any:
    """Open a model with the defaults of ONNX Runtime, but for threads that disturb no neighbour."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
