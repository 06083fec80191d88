"""Find the PyTorch module from which on what was captured computes something else than the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from gnnexport.pipeline.source import Source
from gnnexport.program.capture import capture
from gnnexport.program.graphs import modules_of
from gnnexport.program.program import arguments_of, example_inputs, placeholder_names
from gnnexport.program.ties import TiesInOrder
from gnnexport.program.verify import TOLERANCE, relative_error


class Recorder(fx.Interpreter):
    """Run a graph and keep every value that is a tensor of real numbers."""

    def __init__(self, module: fx.GraphModule) -> None:
        """Take over a graph; nothing is kept yet."""
        super().__init__(module)
        self.found: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point() and n.op in ("placeholder", "call_function"):
            self.found[n] = result
        return result


def capture_divergence(source: Source, arguments: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> str | None:
    """Name the first module, in the order in which they finish, whose result the captured model does not have.

    The model is captured once more, as no pass has moved anything there yet. A module that runs several times is passed
    over.

    Args:
        source: with the model.
        arguments: of the model.
        inputs: of the Program: the same, and the number of graphs.
    """
    results = _results(source.model, arguments)
    program = capture(source.model, source.inputs, example_inputs(source.inputs))
    given = {**{name: value for name, value in arguments.items() if isinstance(value, Tensor)}, **inputs}
    recorder = Recorder(program.body)
    with torch.no_grad():
        recorder.run(*arguments_of(given, placeholder_names(program.body)))
    captured: dict[str, Tensor] = {}
    for node, value in recorder.found.items():
        captured.update(dict.fromkeys(modules_of(node), value))
    for name, result in results.items():
        seen = captured.get(name)
        if seen is None or seen.dim() != result.dim() or seen.shape[1:] != result.shape[1:]:
            continue  # the last value of a module need not be its result
        if relative_error(result, seen[: len(result)]) > TOLERANCE:
            return name
    return None


def _results(model: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Run the model; return what each module gives that runs once, by path and class, in the order they finish."""
    found: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, result: Any) -> None:
            del module, given
            runs[name] += 1
            if isinstance(result, Tensor) and result.is_floating_point() and result.dim():
                found[name] = result.clone()

        return hook

    handles = [
        module.register_forward_hook(keep(f"{path} ({type(module).__name__})"))
        for path, module in model.named_modules()
        if path
    ]
    try:
        with torch.no_grad(), TiesInOrder():
            model(**arguments)
    finally:
        for handle in handles:
            handle.remove()
    return {name: result for name, result in found.items() if runs[name] == 1}
