"""Tell before lowering which ops of a Program have no ONNX translation.

The exporter answers only by failing, with no word of the module, so its list of translations is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from gnnexport.errors import Problem
from gnnexport.program.graphs import argument, module_of
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program, arguments_of, placeholder_names
from gnnexport.targets.onnx.exporter import decompositions, torchlib
from gnnexport.targets.onnx.translate import translations

aten = torch.ops.aten

_SCATTERS = {aten.scatter.src, aten.scatter.reduce, aten.scatter_add.default, aten.scatter_reduce.two}
"""Scatters whose arguments are a tensor, `dim`, `index` and `src`."""

_MEND = "Replace that op in the model"


def unsupported(program: Program, mode: Mode = "full") -> list[Problem]:
    """Return one problem for each op that ONNX cannot say; the Program is left as it was.

    In mode `graphs` the ops of `prepare` count as well: the model computes what depends on the graph alone.
    """
    program = program.clone().train(False)
    example = program.example()
    problems: list[Problem] = []
    with torch.no_grad():
        if mode == "graphs" and program.prepare is not None:
            problems += _probed(program.prepare, arguments_of(example, placeholder_names(program.prepare)))
        given = program.inputs if program.prepare is None else program.features
        features = arguments_of(example, [item.name for item in given])
        return problems + _probed(program.body, [*features, *program.structure(example)])


def _probed(module: fx.GraphModule, arguments: Sequence[Any]) -> list[Problem]:
    probe = _Probe(module)
    probe.run(*arguments)
    return probe.problems


class _Probe(fx.Interpreter):
    """Run a module on a small graph and look at each op with its arguments."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.problems: list[Problem] = []

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        # Numbers, such as sizes, are known once the graph is fixed.
        computes = any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result))
        if n.op == "call_function" and computes:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            missing = sorted(set(_missing(n.target, args, kwargs)))
            if missing:
                inside = "" if missing == [str(n.target)] else f" ({', '.join(missing)} inside it)"
                what = f"{n.target} has no ONNX translation{inside}"
                self.problems.append(Problem(module_of(n), what, _MEND))
            elif self._scatters_narrowly(n):
                what = f"{n.target} has an index of another shape than its values, which ONNX Runtime refuses to run"
                mend = "Expand the index to the shape of the values, or cut the values to that of the index"
                self.problems.append(Problem(module_of(n), what, mend))
        return result

    def _scatters_narrowly(self, node: fx.Node) -> bool:
        if node.target not in _SCATTERS:
            return False
        index, values = (self.env[argument(node, place, name)] for place, name in ((2, "index"), (3, "src")))
        return bool(index.shape != values.shape)


def _missing(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[str]:
    """Name the ops without translation that an op consists of."""
    if target in translations() or not isinstance(target, torch._ops.OpOverload) or torchlib().is_registered(target):
        return
    leaves, form = pytree.tree_flatten((args, kwargs))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def call(*tensors: Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        inner_args, inner_kwargs = pytree.tree_unflatten(filled, form)
        return target(*inner_args, **inner_kwargs)

    try:
        traced = make_fx(call, decomposition_table=decompositions())(*(leaves[place] for place in places))
    except RuntimeError:
        yield str(target)
        return
    for node in traced.graph.nodes:
        if node.op == "call_function" and not torchlib().is_registered(node.target):
            yield str(node.target)
