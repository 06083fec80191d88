"""Say why a model could not be captured: in which of its modules, at which line, and what to do."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torch import nn

from gnnexport.errors import UnsupportedError

_VALUES = ("GuardOnDataDependentSymNode", "data-dependent", "Data-dependent", "untracked tensor", "Data dependent")
_TORCH = str(Path(torch.__file__).parent) + os.sep


def explain(model: nn.Module, run: Callable[[], object], error: Exception) -> UnsupportedError:
    """Return the error for a user.

    Args:
        model: that was traced.
        run: calls the model itself on what it was traced with.
        error: what tracing ended in.
    """
    own = _own_error(run)
    if own is not None:
        what = f"the model itself fails on a small graph: {_spoken(own)}{_line(own)}"
        mend = (
            "It has to run on graphs of any size, as tensors, with what is installed here: replace what asks for more"
        )
        return UnsupportedError.at(_module(model, own), what, mend)
    if any(word in f"{type(error).__name__} {error}" for word in _VALUES):
        what = f"torch.export cannot follow this model: what runs next depends on values of tensors{_line(error)}"
    else:
        what = f"torch.export cannot follow this model: {_spoken(error)}{_line(error)}"
    mend = (
        "Look for control flow on tensor values, or for a layer that is not traceable, there; "
        "replace that layer, or run it on the data beforehand and give the model what it makes"
    )
    return UnsupportedError.at(_module(model, error), what, mend)


def _own_error(run: Callable[[], object]) -> Exception | None:
    try:
        with torch.no_grad():
            run()
    except Exception as error:
        return error
    return None


def _spoken(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _frames(error: BaseException | None) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames and lines an error and its causes went through, the outermost first."""
    while error is not None:
        trace: TracebackType | None = error.__traceback__
        yield from traceback.walk_tb(trace)
        error = error.__cause__ or error.__context__


def _module(model: nn.Module, error: Exception) -> str:
    """Name the innermost of a model's modules that an error went through."""
    names = {id(part): f"{name or 'model'} ({type(part).__name__})" for name, part in model.named_modules()}
    found = "capture"
    for frame, _ in _frames(error):
        found = names.get(id(frame.f_locals.get("self")), found)
    return found


def _line(error: Exception) -> str:
    """Name the file and line at which a model's own code, or PyG's, ended in an error."""
    found = ""
    for frame, line in _frames(error):
        path = frame.f_code.co_filename
        if path.startswith((_TORCH, "<")) or Path(path).parent == Path(__file__).parent:
            continue
        found = f" ({Path(path).name}, line {line})"
    return found
