"""Programs of `torch.export` (`.pt2`), as modules with named arguments. Loading one runs code from it."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gnnexport.errors import UnsafeFileError, UnsupportedError, UsageError
from gnnexport.frontends.refusal import one_line, quoted, require_file
from gnnexport.program.inputs import NAMES, Role

MODULE_MEND = "Save the module with torch.save instead"
DYNAMIC_MEND = "Export it with dynamic_shapes for the numbers of nodes and edges, or save the module with torch.save"
_AXES = {
    Role.NODE_FEATURES: 0, Role.EDGE_INDEX: 1, Role.EDGE_WEIGHT: 0, Role.EDGE_FEATURES: 0, Role.EDGE_TYPE: 0,
    Role.NODE_TYPE: 0, Role.GRAPH_IDS: 0,
}  # fmt: skip
_COUNTED = {Role.NODE_FEATURES: "nodes", Role.GRAPH_IDS: "nodes"}


class ExportedModule(nn.Module):
    """Call an exported program like a module; it stays in evaluation mode."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        with warnings.catch_warnings():
            # torch's own code for copying a program uses what torch has deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            duplicate = type(self)(copy.deepcopy(self.program, memo))
        return duplicate.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Note the mode only: the program itself cannot change it."""
        self.training = mode
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        return self.program(*args, **kwargs)


def load_exported(path: Path, *, trust: bool) -> nn.Module:
    """Load a program that `torch.export.save` wrote.

    Raises:
        UnsafeFileError: without `trust`.
        UsageError: missing, damaged, or of another format.
        UnsupportedError: exported for one size of graph.
    """
    require_file(path, "Give the path of a file written by torch.export.save")
    if not trust:
        what = "is an exported program, and loading one runs code from it"
        mend = f"{MODULE_MEND}, or pass --trust if you know who wrote this file"
        raise UnsafeFileError.at(str(path), what, mend)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.load(path)
            program = exported.module()
    except Exception as error:
        what = f"cannot be loaded as an exported program ({type(error).__name__}: {one_line(error)})"
        raise UsageError.at(
            str(path), what, f"Write it again with torch.export.save. Or: {MODULE_MEND.lower()}"
        ) from error
    names = _check_sizes(exported, path)
    forward = with_signature(ExportedModule.forward, [(name, True) for name in names])
    model: nn.Module = type("ExportedProgram", (ExportedModule,), {"forward": forward})(program)
    return model


def with_signature(function: Callable[..., Any], arguments: list[tuple[str, bool]]) -> Callable[..., Any]:
    """Give a method that takes anything the arguments it has in truth: (name, required), in their order."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", kind)]
    for name, required in arguments:
        parameters.append(inspect.Parameter(name, kind, default=inspect.Parameter.empty if required else None))
    vars(forward)["__signature__"] = inspect.Signature(parameters)
    return forward


def _check_sizes(exported: torch.export.ExportedProgram, path: Path) -> list[str]:
    """Return the names of the arguments, after checking that no size of a graph is built in."""
    names = [name for name in exported.graph_signature.user_inputs if isinstance(name, str)]
    for node in exported.graph.nodes:
        role = NAMES.get(node.name) if node.op == "placeholder" and node.name in names else None
        value = node.meta.get("val") if role in _AXES else None
        if role is None or not isinstance(value, Tensor) or value.dim() <= _AXES[role]:
            continue
        size = value.shape[_AXES[role]]
        if isinstance(size, int):
            what = f"was exported for {size} {_COUNTED.get(role, 'edges')} only, by the size of {quoted(node.name)}"
            raise UnsupportedError.at(str(path), what, DYNAMIC_MEND)
    return names
