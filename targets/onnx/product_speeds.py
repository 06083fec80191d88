"""Time the products of a lowered model with zeros put into their weights, before any are trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch

from gnnexport.measure.amdahl import ProductShape
from gnnexport.measure.sparse_speed import Setting, Timed
from gnnexport.targets.onnx.choice import Choices, Timer
from gnnexport.targets.onnx.linear import is_linear, layer_weights
from gnnexport.targets.onnx.sparse_products import DENSE, ENGINE, FEWEST, Product, matrices_of, rows_of, time_layouts
from gnnexport.training.sparsity.patterns import Pattern, mask_of, parse_pattern

MOST_TIMED = 4
"""Shapes of products, those of the most multiply-accumulates, that are timed."""


def products_of(graph: ir.Graph, choices: Choices) -> tuple[ProductShape, ...]:
    """List the products of a lowered graph whose zeros might be skipped; none where our kernels do not run it."""
    if not choices.calls_kernels or choices.run is None:
        return ()
    found: Counter[ProductShape] = Counter()
    for node in graph:
        matrices = [(matrix, True) for matrix in matrices_of(node)]
        if is_linear(node):
            matrices.append((layer_weights(node), False))
        for matrix, by_kernels in matrices:
            rows = rows_of(node, choices)
            if matrix.size >= FEWEST and rows:
                outputs, inputs = matrix.shape
                found[ProductShape(rows, inputs, outputs, by_kernels=by_kernels)] += 1
    return tuple(replace(item, count=count) for item, count in found.items())


def time_products(
    products: Sequence[ProductShape], setting: Setting, run: Timer, seed: int, budget_s: float
) -> tuple[Timed, ...]:  # fmt: skip
    """Time the heaviest of some products, dense and without zeros that are drawn at random.

    Args:
        products: of a model.
        setting: which numbers become zero.
        run: opens a model to be timed.
        seed: of the draws.
        budget_s: seconds that this may take, about.
    """
    heaviest = sorted(products, key=lambda item: item.macs, reverse=True)[:MOST_TIMED]
    return tuple(_timed(item, setting, run, seed, budget_s / len(heaviest)) for item in heaviest)


def _timed(product: ProductShape, setting: Setting, run: Timer, seed: int, budget_s: float) -> Timed:
    pattern = parse_pattern(setting.pattern)
    assert isinstance(pattern, Pattern)
    random = np.random.default_rng(seed)
    weights = random.standard_normal((product.outputs, product.inputs)).astype(np.float32)
    scores = torch.from_numpy(random.random(weights.shape))
    count = round((1 - setting.sparsity) * weights.size)
    weights[~mask_of(scores, pattern, count).numpy()] = 0
    whole = Product(weights, product.rows)
    without, layouts = DENSE if product.by_kernels else ENGINE, whole.layouts()
    times, _ = time_layouts(whole, [without, *layouts], run, seed, budget_s)
    dense = times[without]
    fastest = min((times[name] for name in layouts), default=dense)
    return Timed(product, dense * whole.rows / whole.shortened().rows, dense / fastest)
