"""Let products skip the zeros of sparse weights, each where that was timed as faster than to multiply them.

The kernels hold a matrix whole (`dense`), as the numbers that are not zero wherever they stand (`sparse`), or as those
runs of sixteen outputs at one input that are not all zero (`blocks`). What meets a zero that is skipped is not read: an
infinite number there makes no NaN.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.choice import Candidate, Choices, Timer, random_inputs, time_candidates, winner_first
from gnnexport.targets.onnx.linear import layer_weights
from gnnexport.targets.onnx.operators import dialect_nodes
from gnnexport.targets.onnx.tape import Constants

DENSE, SPARSE, BLOCKS = "dense", "sparse", "blocks"
ENGINE = "engine"
"""A product that is left to the runtime."""

LEAST_ZEROS = 0.5
"""Share of zeros from which skipping them is timed: below it that was never faster, as `benchmarks/sparse_weights.py`
shows."""

SURE_ZEROS = 0.9
"""Share from which zeros are skipped where nothing can be timed."""

FEWEST = 1024
"""Numbers of a matrix from which its product takes a time worth choosing for."""

MOST_NUMBERS = 1 << 23
"""Numbers of rows, or of results, that timing a product takes at most: no near cache holds so many either."""

TYPICAL_ROWS = 16384
"""Rows where nobody knows how many there will be."""

RUN = 16
"""Outputs of a run, as `kernels/src/runs.hpp` has it."""

_MATRICES = {
    schemas.AGGREGATE_LINEAR: {4: schemas.WEIGHTS, 6: schemas.OWN_WEIGHTS},
    schemas.LINEAR: {1: schemas.WEIGHTS},
}
"""Where operators have their matrices, and the attributes that say how these are held."""


@dataclass(frozen=True)
class Product:
    """A product of rows with weights.

    Args:
        weights: [out_width, width].
        rows: how many are multiplied.
    """

    weights: NDArray[Any]
    rows: int

    def skipped(self, layout: str) -> int:
        """Count the zeros that a layout leaves out."""
        if layout not in (SPARSE, BLOCKS):
            return 0
        zero = self.weights == 0
        if layout == SPARSE:
            return int(zero.sum())
        starts = np.arange(0, len(zero), RUN)
        whole = np.logical_and.reduceat(zero, starts, axis=0)
        return int(whole.sum(axis=1) @ np.diff(starts, append=len(zero)))

    def layouts(self) -> list[str]:
        """Name the layouts that leave out enough to be timed."""
        size = self.weights.size
        enough = [layout for layout in (SPARSE, BLOCKS) if self.skipped(layout) >= LEAST_ZEROS * size]
        return enough if size >= FEWEST else []

    def describe(self) -> str:
        """Name it by what decides its speed."""
        out_width, width = self.weights.shape
        size = self.weights.size
        shares = f"{self.skipped(SPARSE) / size:.0%} zeros, {self.skipped(BLOCKS) / size:.0%} in runs"
        return f"product with {out_width}×{width} weights, {shares}, {self.rows} rows"

    def shortened(self) -> Product:
        """Return it with no more rows than are timed."""
        return Product(self.weights, min(self.rows, max(1, MOST_NUMBERS // max(self.weights.shape))))

    def alone(self, how: str) -> ir.Model:
        """Return a model of it, to be timed."""
        out_width, width = self.weights.shape
        x = ir.Value(name="x", shape=ir.Shape([self.rows, width]), type=ir.TensorType(ir.DataType.FLOAT))
        opsets = {"": 20} if how == ENGINE else {"": 20, schemas.DOMAIN: schemas.VERSION}
        graph = ir.Graph([x], [], nodes=[], name="product", opset_imports=opsets)
        constants = Constants(graph)
        if how == ENGINE:
            node = ir.node("MatMul", [x, constants.add(self.weights.T.copy())])
        else:
            given = [x, constants.add(np.ascontiguousarray(self.weights))]
            node = ir.node(schemas.LINEAR, given, {schemas.WEIGHTS: how}, domain=schemas.DOMAIN)
        out = node.outputs[0]
        out.name, out.shape, out.type = "out", ir.Shape([self.rows, out_width]), x.type
        graph.append(node)
        graph.outputs.append(out)
        return ir.Model(graph, ir_version=10)


def wins_over_engine(layer: ir.Node, choices: Choices | None) -> bool:
    """Tell whether the kernels skip the zeros of a linear layer faster than the runtime multiplies them."""
    if choices is None:
        return False
    return choose(Product(layer_weights(layer), rows_of(layer, choices)), ENGINE, choices) != ENGINE


def hold_sparse(graph: ir.Graph, choices: Choices | None) -> None:
    """Let the kernels' products in a graph skip zeros where that is faster, in place."""
    if choices is None:
        return
    for node in dialect_nodes(graph):
        for place, attribute in _MATRICES.get(node.op_type, {}).items():
            matrix = node.inputs[place] if len(node.inputs) > place else None
            if matrix is None or matrix.const_value is None:
                continue
            layout = choose(Product(matrix.const_value.numpy(), rows_of(node, choices)), DENSE, choices)
            if layout != DENSE:
                node.attributes[attribute] = ir.AttrString(attribute, layout)


def skipped_zeros(graph: ir.Graph) -> dict[str, tuple[int, int, str]]:
    """Return the matrices whose zeros are skipped wherever they are read, by name: skipped zeros, numbers, layout."""
    found = {}
    for name, value in graph.initializers.items():
        held = {_held(use.node, use.idx) for use in value.uses()}
        if len(held) == 1 and DENSE not in held:
            assert value.const_value is not None
            weights, layout = value.const_value.numpy(), held.pop()
            found[name] = (Product(weights, 0).skipped(layout), weights.size, layout)
    return found


def choose(product: Product, without: str, choices: Choices) -> str:
    """Return the layout of a product, or `without` where no zeros are skipped: timed once, then remembered."""
    layouts = product.layouts()
    if not layouts:
        return without
    key = product.describe() if without == DENSE else f"{product.describe()}, instead of the engine"
    if key not in choices.decisions:
        listed = _candidates(product, key, [without, *layouts], choices)
        choices.decisions[key] = listed[0].name
        timed = [{"name": item.name, "latency_ms": item.latency_ms} for item in listed]
        choices.rows.append({"op": key, "chosen": listed[0].name, "candidates": timed})
    return choices.decisions[key]


def _candidates(product: Product, key: str, names: list[str], choices: Choices) -> list[Candidate]:
    """Return what was considered, the winner first."""
    replayed = (choices.ctx.decisions or {}).get("lowerings", {}).get(key)
    if replayed in names:
        return [Candidate(str(replayed), 0.0)]
    if choices.run is None or choices.spent_s > choices.ctx.time_budget_s:
        least = SURE_ZEROS * product.weights.size
        sure = [name for name in (BLOCKS, SPARSE) if name in names and product.skipped(name) >= least]
        return [Candidate((sure or names)[0], 0.0)]
    start = time.perf_counter()
    budget_s = min(choices.ctx.time_budget_s - choices.spent_s, choices.ctx.time_budget_s / 10)
    medians, noise = time_layouts(product, names, choices.run, choices.ctx.seed, budget_s)
    choices.spent_s += time.perf_counter() - start
    return winner_first([Candidate(name, 0.0, medians[name]) for name in names], noise)


def time_layouts(
    product: Product, names: Sequence[str], run: Timer, seed: int, budget_s: float
) -> tuple[dict[str, float], float]:
    """Time a product, of as few rows as tell, in several layouts side by side.

    Args:
        product: with rows as the model has them.
        names: of layouts, or `ENGINE`.
        run: opens a model to be timed.
        seed: of the rows.
        budget_s: seconds that this may take, about.

    Returns:
        Milliseconds by name, and the share by which they have to differ to differ at all.
    """
    models = {name: product.shortened().alone(name) for name in names}
    runs = {name: run(model, random_inputs(model, seed)) for name, model in models.items()}
    return time_candidates(runs, budget_s)


def matrices_of(node: ir.Node) -> list[NDArray[Any]]:
    """Return the matrices, [outputs, inputs], that an operator of the kernels multiplies with."""
    places = _MATRICES.get(node.op_type, {}) if node.domain == schemas.DOMAIN else {}
    held = [node.inputs[place] for place in places if len(node.inputs) > place]
    return [value.const_value.numpy() for value in held if value is not None and value.const_value is not None]


def rows_of(node: ir.Node, choices: Choices) -> int:
    """Return how many rows a product gives, or as many as are timed."""
    shape = node.outputs[0].shape
    size = shape[0] if shape is not None and len(shape) else None
    if isinstance(size, int):
        return max(1, size)
    named = None if size is None or size.value is None else choices.sizes.get(str(size.value))
    return max(1, TYPICAL_ROWS if named is None else named)


def _held(node: ir.Node, place: int) -> str:
    """Tell how a node holds what it reads at a place."""
    attribute = _MATRICES.get(node.op_type, {}).get(place) if node.domain == schemas.DOMAIN else None
    given = None if attribute is None else node.attributes.get(attribute)
    return DENSE if given is None else given.as_string()
