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
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Rows = NDArray[Any]
Places = NDArray[np.int64]
Select = Literal["lasso", "magnitude", "random"]

CHUNK_ROWS = 8192
WIDE = 1024
"""From so many channels on the LASSO is solved for one strength at a time and not for all along the path."""

EIGHTHS = 8
"""Of so many channels only every eighth of their number is solved for; others are taken from the next larger one."""


def cross_moments(one: Rows, other: Rows) -> Matrix:
    """Return one^T other, float64, for float32 or float64 rows [rows, a] and [rows, b]."""
    total = np.zeros((one.shape[1], other.shape[1]))
    # Squares of thousands of columns are summed in single precision: chunks keep its error small.
    dtype = np.float32 if min(total.shape) > WIDE else np.float64
    for start in range(0, len(one), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        total += one[part].astype(dtype, copy=False).T @ other[part].astype(dtype, copy=False)
    return total


@dataclass(frozen=True)
class Readers:
    """Linear maps whose results are summed.

    Args:
        inputs: what each reads, [rows, columns].
        weights: of each, float64 [outputs, columns].
        columns: for each the unit that a column belongs to, -1 where it stays anyway; by default unit c is column c.
    """

    inputs: Sequence[Rows]
    weights: Sequence[Matrix]
    columns: Sequence[Places] = ()

    @cached_property
    def moments(self) -> list[list[Matrix]]:
        """The products Q_k^T Q_l of what the maps read."""
        size = len(self.inputs)
        found: list[list[Matrix]] = [[np.zeros((0, 0))] * size for _ in range(size)]
        for k in range(size):
            for other in range(k, size):
                found[k][other] = cross_moments(self.inputs[k], self.inputs[other])
                found[other][k] = found[k][other].T
        return found

    def reweighted(self, weights: Sequence[Matrix]) -> Readers:
        """Return the same with other weights; products of what the maps read are not computed again."""
        twin = replace(self, weights=weights)
        if "moments" in self.__dict__:
            twin.__dict__["moments"] = self.moments
        return twin

    def gram(self, count: int | None = None) -> Matrix:
        """Return the Gram matrix of the units' contributions to the sum, [units, units].

        Args:
            count: number of units; by default the number of columns.
        """
        size = self.inputs[0].shape[1] if count is None else count
        columns = self.columns or [np.arange(rows.shape[1]) for rows in self.inputs]
        total = np.zeros((size, size))
        for k, weight in enumerate(self.weights):
            for other, other_weight in enumerate(self.weights):
                product = self.moments[k][other] * (weight.T @ other_weight)
                total += gather(gather(product, columns[k], size).T, columns[other], size).T
        return total


def gather(product: Matrix, columns: Places, size: int) -> Matrix:
    """Sum the rows of a matrix that belong to the same unit; rows of no unit are left out."""
    used = np.flatnonzero(columns >= 0)
    if len(np.unique(columns[used])) == len(used):
        total = np.zeros((size, product.shape[1]))
        total[columns[used]] = product[used]
        return total
    total = np.zeros((size, product.shape[1]))
    np.add.at(total, columns[used], product[used])
    return total


class Ranking:
    """Ranks the units of a group.

    Args:
        gram: of their contributions, [units, units].
        how: `lasso` by the path of eq. 4, `magnitude` by the weights that read them, `random` by a draw.
        magnitudes: sum of the absolute weights that read each unit.
        seed: of the draw.
    """

    def __init__(self, gram: Matrix, how: Select, magnitudes: Matrix, seed: int) -> None:
        scale = float(np.trace(gram)) / len(gram) or 1.0
        self.gram = (gram + gram.T) / (2 * scale)
        self._how = how
        self._solved: dict[int, Matrix] = {}
        self._scores = magnitudes if how == "magnitude" else np.random.default_rng(seed).permutation(len(gram))

    def order(self, count: int) -> Places:
        """Return all units, the ones to keep first, for a choice of `count` of them."""
        if self._how != "lasso":
            return np.argsort(-self._scores, kind="stable")
        if len(self.gram) > WIDE:
            eighth = -(-len(self.gram) // EIGHTHS)
            asked = min(len(self.gram), -(-count // eighth) * eighth)
            if asked not in self._solved:
                self._solved[asked] = np.abs(descend(self.gram, asked))
            coefficients = self._solved[asked]
        else:
            used = (self._path != 0).sum(axis=0)
            enough = np.flatnonzero(used >= count)
            coefficients = np.abs(self._path[:, enough[0] if len(enough) else -1])
        # Units that the path never took up follow in order of what they contribute alone.
        return np.lexsort((-np.diag(self.gram), -coefficients))

    @cached_property
    def _path(self) -> Matrix:
        """Coefficients along the path, [units, points]."""
        from sklearn.linear_model import lars_path_gram

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dead and duplicate channels make the Gram matrix singular: expected
            path: Matrix = lars_path_gram(
                self.gram.sum(axis=1), self.gram, n_samples=len(self.gram), max_iter=8 * len(self.gram), method="lasso"
            )[2]
        return path

    def error(self, kept: Places) -> float:
        """Return the share of the sum's squares that is lost when only some units stay, each with a new coefficient."""
        right = self.gram.sum(axis=1)
        whole = float(right.sum())
        if whole <= 0:
            return 0.0
        inner = self.gram[np.ix_(kept, kept)]
        if len(kept) > WIDE:
            solution = conjugate_gradients(inner, right[kept])
        else:
            solution = np.linalg.solve(inner + 1e-9 * np.eye(len(kept)), right[kept])
        left = whole - 2 * float(right[kept] @ solution) + float(solution @ inner @ solution)
        return max(0.0, left / whole)


def conjugate_gradients(matrix: Matrix, right: Matrix, steps: int = 10) -> Matrix:
    """Solve a symmetric system nearly, starting from ones, in a few products."""
    solution = np.ones(len(right))
    residual = right - matrix @ solution
    direction, square = residual.copy(), float(residual @ residual)
    for _ in range(steps):
        product = matrix @ direction
        curvature = float(direction @ product)
        if curvature <= 0:
            break
        solution += square / curvature * direction
        residual -= square / curvature * product
        square, before = float(residual @ residual), square
        direction = residual + square / before * direction
    return solution


def descend(gram: Matrix, count: int, rounds: int = 12, sweeps: int = 20) -> Matrix:
    """Return coefficients of the LASSO with about `count` of them in use, by coordinate descent.

    The strength of the penalty is found by bisection, each solution starting from the one before.

    Args:
        gram: [units, units], symmetric.
        count: how many are wanted; the strongest penalty tried with at least so many in use decides.
        rounds: strengths tried.
        sweeps: over all units that are in use, for each strength.
    """
    right = gram.sum(axis=1)
    low, high = 0.0, float(np.abs(right).max())
    best = np.ones(len(gram))
    current = np.zeros(len(gram))
    for _ in range(rounds):
        strength = (low + high) / 2
        current = _solve(gram, right, strength, current, sweeps)
        used = int((current != 0).sum())
        if used >= count:
            best, low = current.copy(), strength
            if used == count:
                break
        else:
            high = strength
    return best


def _solve(gram: Matrix, right: Matrix, strength: float, start: Matrix, sweeps: int) -> Matrix:
    """Minimise b^T G b / 2 - r^T b + strength |b|_1 from a start."""
    solution = start.copy()
    residual = right - gram @ solution
    diagonal = np.diag(gram)
    live = np.flatnonzero(diagonal > 0)
    for sweep in range(sweeps):
        # Of those at zero only the ones whose gradient exceeds the penalty can move.
        active = live[(solution[live] != 0) | (np.abs(residual[live]) > strength)]
        largest = 0.0
        for unit in active:
            old = solution[unit]
            pull = residual[unit] + diagonal[unit] * old
            new = np.sign(pull) * max(abs(pull) - strength, 0.0) / diagonal[unit]
            if new != old:
                residual -= gram[unit] * (new - old)
                solution[unit] = new
                largest = max(largest, abs(new - old))
        if largest < 1e-3 and sweep:
            break
    return solution


def refit(design: Sequence[Rows], start: Sequence[Matrix], target: Rows, ridge: float = 1e-6) -> list[Matrix]:
    """Return new weights [outputs, columns] for each map, by least squares.

    Args:
        design: what each map reads in the smaller network, [rows, columns]; fitted together.
        start: weights of each, [outputs, columns].
        target: sum of the maps' results in the unpruned network, [rows, outputs]; biases take no part.
        ridge: relative to the mean diagonal of the normal equations, which dead channels make singular.
    """
    whole = design[0] if len(design) == 1 else np.concatenate(design, axis=1)
    normal = cross_moments(whole, whole)
    begin = np.concatenate(start, axis=1).T
    strength = ridge * (float(np.trace(normal)) / len(normal) or 1.0)
    # The ridge pulls towards the old weights, so that a channel that is never active keeps its weight.
    right = cross_moments(whole, target) + strength * begin
    solution = np.linalg.solve(normal + strength * np.eye(len(normal)), right)
    return [part.T for part in np.split(solution, np.cumsum([rows.shape[1] for rows in design])[:-1], axis=0)]
