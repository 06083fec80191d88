"""Choose channels by LASSO and refit what reads them.

For linear maps W_k that read the same channels through different aggregations and whose results are
summed, the channels' coefficients b solve

    min_b || sum_k Q_k diag(b) W_k^T - sum_k Q_k W_k^T ||^2 + lambda |b|_1

(Zhou et al., "Accelerating Large Scale Real-Time GNN Inference using Channel Pruning", VLDB 2021, eq. 4).
With W fixed this is a LASSO whose Gram matrix is sum_{k,l} (Q_k^T Q_l) * (W_k^T W_l), of size channels
squared, so the whole path costs no pass over the nodes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Readers:
    """Linear maps whose results are summed.

    Args:
        inputs: what each reads, float64 [rows, channels].
        weights: of each, float64 [outputs, channels].
    """

    inputs: Sequence[Matrix]
    weights: Sequence[Matrix]

    def target(self) -> Matrix:
        """Return the sum of the unpruned results, [rows, outputs]; biases take no part."""
        total = self.inputs[0] @ self.weights[0].T
        for rows, weight in zip(self.inputs[1:], self.weights[1:], strict=True):
            total += rows @ weight.T
        return total

    def gram(self) -> Matrix:
        """Return the Gram matrix of the channels' contributions to the target, [channels, channels]."""
        size = self.inputs[0].shape[1]
        total = np.zeros((size, size))
        for rows, weight in zip(self.inputs, self.weights, strict=True):
            for other_rows, other_weight in zip(self.inputs, self.weights, strict=True):
                total += (rows.T @ other_rows) * (weight.T @ other_weight)
        return total


def select_channels(groups: Sequence[Readers], count: int) -> NDArray[np.int64]:
    """Return the `count` channels that the LASSO path takes up, ascending.

    Args:
        groups: sums of linear maps that read the channels; their errors are added.
        count: how many to keep.
    """
    gram = np.sum([group.gram() for group in groups], axis=0)
    size = gram.shape[0]
    scale = float(np.trace(gram)) / size or 1.0
    gram = (gram + gram.T) / (2 * scale)
    coefficients = np.abs(_path_point(gram, count))
    # Channels that the path never took up follow in order of what they contribute alone.
    order = np.lexsort((-np.diag(gram), -coefficients))
    return np.sort(order[:count]).astype(np.int64)


def _path_point(gram: Matrix, count: int) -> Matrix:
    """Return the coefficients at the first point of the path with `count` channels in use."""
    from sklearn.linear_model import lars_path_gram

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dead and duplicate channels make the Gram matrix singular: expected
        _, _, path = lars_path_gram(
            gram.sum(axis=1), gram, n_samples=gram.shape[0], max_iter=8 * gram.shape[0], method="lasso"
        )
    used = (path != 0).sum(axis=0)
    enough = np.flatnonzero(used >= count)
    coefficients: Matrix = path[:, enough[0] if len(enough) else -1]
    return coefficients


def refit(readers: Readers, kept: NDArray[np.int64], ridge: float = 1e-6) -> list[Matrix]:
    """Return new weights [outputs, kept] for each map, by least squares on the kept channels.

    Args:
        readers: maps whose results are summed; fitted together.
        kept: channels, ascending.
        ridge: relative to the mean diagonal of the normal equations, which dead channels make singular.
    """
    design = np.concatenate([rows[:, kept] for rows in readers.inputs], axis=1)
    normal = design.T @ design
    start = np.concatenate([weight[:, kept] for weight in readers.weights], axis=1).T
    strength = ridge * (float(np.trace(normal)) / len(normal) or 1.0)
    # The ridge pulls towards the old weights, so that a channel that is never active keeps its weight.
    right = design.T @ readers.target() + strength * start
    solution = np.linalg.solve(normal + strength * np.eye(len(normal)), right)
    return [part.T for part in np.split(solution, len(readers.weights), axis=0)]
