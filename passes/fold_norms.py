"""Fold batch normalisation into the linear maps before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from gnnexport.passes.contract import Pass, PassContext, Stage
from gnnexport.program.graphs import add_parameter, args_of, argument, calls, parameter_of, rebuild
from gnnexport.program.program import Program
from gnnexport.program.shapes import is_scalar, like, rank_of
from gnnexport.program.simplify import drop_dead

aten = torch.ops.aten
gnn = torch.ops.gnn


@dataclass(frozen=True)
class FoldNorms(Pass):
    """Scale weights by what an inference-time batch normalisation would scale, and drop dropout.

    A scale per channel commutes with summing over neighbours, so it passes aggregations, too.
    """

    name: ClassVar[str] = "fold-norms"
    stage: ClassVar[Stage] = Stage.FINALISE

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Fold where the producers allow it; elsewhere the normalisation stays."""
        program = program.clone().train(False)
        program.annotate()
        graph = program.body.graph
        for dropout in calls(graph, aten.dropout.default):
            dropout.replace_all_uses_with(args_of(dropout)[0])
            graph.erase_node(dropout)
        folded = 0
        for norm in calls(graph, aten.batch_norm.default):
            if _foldable(program.body, norm):
                program.sparse_weights |= _renamed(program, _fold(program.body, norm))
                folded += 1
        drop_dead(graph)
        program.body = rebuild(program.body, graph)
        program.sparse_weights &= {name for name, _ in program.body.named_parameters(remove_duplicate=False)}
        if folded:
            ctx.note(f"folded {folded} batch normalisations")
        return program


def _foldable(module: fx.GraphModule, norm: fx.Node) -> bool:
    """Tell whether a scale per channel can be moved into the parameters that make the normalised value.

    A value of more dimensions has its channels elsewhere than last, and a normalisation without running
    statistics has a scale that the features decide.
    """
    statistics = [parameter_of(module, item) for item in args_of(norm)[3:5]]
    if rank_of(norm) != 2 or any(item is None for item in statistics):
        return False
    made: set[fx.Node] = set()
    return _producers(module, args_of(norm)[0], made) and all(
        user in made | {norm} for node in made for user in node.users
    )


def _producers(module: fx.GraphModule, node: Any, made: set[fx.Node]) -> bool:
    """Collect the ops between the parameters and a value; false when a scale cannot pass one of them."""
    if not isinstance(node, fx.Node):
        return False
    if parameter_of(module, node) is not None:
        return rank_of(node) == 1
    made.add(node)
    if node.target is aten.linear.default:
        parameters = [item for item in (args_of(node)[1], argument(node, 2, "bias")) if item is not None]
        return rank_of(node) == 2 and all(parameter_of(module, item) is not None for item in parameters)
    parts = _scaled_parts(node)
    return bool(parts) and all(_producers(module, item, made) for item in parts)


def _scaled_parts(node: fx.Node) -> list[Any]:
    """Return the arguments to scale so that the result is scaled; empty when there are none such."""
    if node.target is aten.add.Tensor and not node.kwargs and rank_of(node) == 2:
        return list(args_of(node))
    if node.target is aten.mul.Tensor:
        return [item for item, other in (args_of(node), args_of(node)[::-1]) if rank_of(item) == 2 and is_scalar(other)]
    if node.target is gnn.aggregate.default and args_of(node)[4] in ("sum", "mean") and rank_of(node) == 2:
        return [args_of(node)[0]]
    return []


def _renamed(program: Program, folded: Mapping[fx.Node, fx.Node]) -> set[str]:
    """Return the new names of sparse weights: what is scaled is as sparse as before.

    Args:
        program: with the names that they had.
        folded: what was put in the place of each value.
    """
    linear = [pair for pair in folded.items() if pair[0].target is aten.linear.default]
    return {str(args_of(new)[1].target) for old, new in linear if args_of(old)[1].target in program.sparse_weights}


def _fold(module: fx.GraphModule, norm: fx.Node) -> Mapping[fx.Node, fx.Node]:
    """Move a normalisation into parameters, and return what was put in the place of each value before it."""
    source, weight, bias, mean, variance = args_of(norm)[:5]
    eps = float(args_of(norm)[7])
    mean_value, variance_value = parameter_of(module, mean), parameter_of(module, variance)
    assert mean_value is not None
    assert variance_value is not None
    scale = torch.rsqrt(variance_value.double() + eps)
    given = parameter_of(module, weight)
    scale = scale if given is None else scale * given.detach().double()
    shift = -mean_value.double() * scale
    offset = parameter_of(module, bias)
    shift = shift if offset is None else shift + offset.detach().double()
    done: dict[fx.Node, fx.Node] = {}
    scaled = _scaled(module, source, scale, done)
    graph = module.graph
    with graph.inserting_before(norm):
        constant = add_parameter(module, "folded_shift", shift.float())
        result = like(graph.call_function(aten.add.Tensor, (scaled, constant)), norm)
    norm.replace_all_uses_with(_merge_biases(module, result))
    return done


def _scaled(module: fx.GraphModule, node: Any, scale: Tensor, done: dict[fx.Node, fx.Node]) -> fx.Node:
    """Rebuild a value with `scale` moved into its parameters."""
    if node in done:
        return done[node]
    graph = module.graph
    value = parameter_of(module, node)
    if value is not None:
        with graph.inserting_after(node):
            return like(add_parameter(module, "folded_bias", (value.detach().double() * scale).float()), node)
    if node.target is aten.linear.default:
        weight, bias = parameter_of(module, args_of(node)[1]), parameter_of(module, argument(node, 2, "bias"))
        assert weight is not None
        with graph.inserting_before(node):
            scaled_weight = (weight.detach().double() * scale[:, None]).float()
            args: list[Any] = [args_of(node)[0], add_parameter(module, "folded_weight", scaled_weight)]
            if bias is not None:
                args.append(add_parameter(module, "folded_bias", (bias.detach().double() * scale).float()))
    else:
        parts = _scaled_parts(node)
        args = [_scaled(module, item, scale, done) if item in parts else item for item in args_of(node)]
    with graph.inserting_before(node):
        done[node] = like(graph.call_function(node.target, tuple(args)), node)
    return done[node]


def _merge_biases(module: fx.GraphModule, addition: fx.Node) -> fx.Node:
    """Add two constant vectors that are added one after the other beforehand."""
    inner: Any = args_of(addition)[0]
    outer = parameter_of(module, args_of(addition)[1])
    graph = module.graph
    if inner.target is aten.add.Tensor and outer is not None:
        known = parameter_of(module, args_of(inner)[1])
        if known is not None and known.dim() == 1:
            with graph.inserting_before(addition):
                both = add_parameter(module, "folded_bias", known.detach() + outer)
                return like(graph.call_function(aten.add.Tensor, (args_of(inner)[0], both)), addition)
    if inner.target is aten.linear.default and outer is not None:
        known = parameter_of(module, argument(inner, 2, "bias"))
        with graph.inserting_before(addition):
            both = add_parameter(module, "folded_bias", outer if known is None else known.detach() + outer)
            return like(graph.call_function(aten.linear.default, (*args_of(inner)[:2], both)), addition)
    return addition
