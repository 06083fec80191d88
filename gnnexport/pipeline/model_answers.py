"""Ask the PyTorch model itself about made-up graphs, and hold what was captured of it against its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gnnexport.errors import ParityError
from gnnexport.pipeline.capture_divergence import capture_divergence
from gnnexport.pipeline.source import Source
from gnnexport.program.inputs import Role
from gnnexport.program.ties import TiesInOrder
from gnnexport.program.verify import TOLERANCE, relative_error


def ask_model(source: Source, inputs: Mapping[str, Tensor], sizes: Sequence[int]) -> Tensor | None:
    """Return what the model answers; `None` where it cannot run on these graphs, whatever the reason.

    Where it sorts, equal values keep their order.

    Args:
        source: with the model.
        inputs: by name; ids and number of graphs may be missing where only the model takes them.
        sizes: nodes of each graph.
    """
    arguments = _arguments(source, inputs, sizes)
    try:
        with torch.no_grad(), TiesInOrder():
            answer = source.model(**arguments)
    except Exception:  # a model may refuse a graph by raising anything
        return None
    return answer if isinstance(answer, Tensor) else None


def check_capture(
    source: Source, case: str, inputs: Mapping[str, Tensor], sizes: Sequence[int], answer: Tensor, captured: Tensor
) -> None:
    """Hold the answer of a Program that nothing compressed against the model's.

    A model for graphs that counts them by the largest id has no rows for empty ones at the end; those are not compared.

    Args:
        source: with the model.
        case: name of the graphs.
        inputs: of the Program.
        sizes: nodes of each graph.
        answer: of the model.
        captured: answer of the Program.

    Raises:
        ParityError: they differ by more than the tolerance; names the module at fault.
    """
    rows = len(answer) if source.level == "graph" else len(captured)
    error = relative_error(answer, captured[:rows])
    if error <= TOLERANCE:
        return
    module = capture_divergence(source, _arguments(source, inputs, sizes), inputs)
    where = f"; outputs first diverge in {module}" if module else ""
    what = (
        f"the captured model differs from the model by {error:.2g} of the largest output on the graph '{case}'{where}"
    )
    mend = "A layer keeps values of another graph, or decides by the values of one; export without it"
    raise ParityError.at(source.class_name, what, mend)


def _arguments(source: Source, inputs: Mapping[str, Tensor], sizes: Sequence[int]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for item in source.inputs:
        if item.role is Role.NUM_GRAPHS:
            arguments[item.name] = len(sizes)
        elif item.role is Role.GRAPH_IDS:
            arguments[item.name] = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(list(sizes)))
        else:
            # A kind that the answer does not depend on is not in the Program; the model gets none of it.
            none = [size if isinstance(size, int) else 0 for size in item.shape]
            arguments[item.name] = inputs.get(item.name, torch.zeros(none, dtype=getattr(torch, item.dtype)))
    return arguments
