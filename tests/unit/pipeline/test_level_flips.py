"""What a golden case of a quantised model demands: rows a level apart are explained, faults are not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gnnexport.bundle.golden import Flips, GoldenCase, read_golden, write_golden
from gnnexport.errors import UsageError
from gnnexport.pipeline.level_flips import find_flips, rounds_values
from gnnexport.validate.parity import compare_outputs
from tests.targets.graphs import from_degrees
from tests.targets.quantised_networks import NETWORKS, Quantised, features

GRAPH = from_degrees([0, 1, 90, 3, 7, 0, *[3] * 300])
X = features(GRAPH)
STRUCTURE = (torch.tensor(GRAPH.rowptr), torch.tensor(GRAPH.col))
TOLERANCE = 1e-4


def program(network: torch.nn.Module) -> Any:
    """Return what is asked of a Program."""
    body = torch.export.export(network, (X, *STRUCTURE)).module()
    return SimpleNamespace(body=body, inputs=[SimpleNamespace(name="x")], prepare=None)


def found(network: Quantised) -> tuple[np.ndarray, Flips]:
    """Return the answer of a network and what may differ."""
    given = program(network)
    with torch.no_grad():
        output = given.body(X, *STRUCTURE)
    flips = find_flips(given, {"x": X}, STRUCTURE, output)
    assert flips is not None
    return output.numpy(), flips


def error(expected: np.ndarray, actual: np.ndarray, flips: Flips | None) -> float:
    """Return the largest error that is not explained."""
    return compare_outputs({"y": expected}, {"y": actual}, flips=flips).max_rel_error


@pytest.mark.parametrize("tables", [(0, 0), (GRAPH.num_nodes, 0), (0, 50)])
@pytest.mark.parametrize("name", NETWORKS)
def test_sums_in_another_order(name: str, tables: tuple[int, int]) -> None:
    """Edges in another order round some sums to other levels; that is explained, with few rows and little error."""
    network = NETWORKS[name](*tables)
    output, flips = found(network)
    assert flips.share < 0.5
    for seed in range(3):
        random = np.random.default_rng(seed)
        col = np.concatenate([random.permutation(part) for part in np.split(GRAPH.col, GRAPH.rowptr[1:-1])])
        if name == "weighted":
            continue  # its weights follow the sources
        with torch.no_grad():
            again = network(X * (1 + 1e-7), STRUCTURE[0], torch.tensor(col)).numpy()
        assert error(output, again, flips) < TOLERANCE


@pytest.mark.parametrize("tables", [(0, 0), (GRAPH.num_nodes, 0)])
@pytest.mark.parametrize("fault", ["scale", "zero", "rows", "columns", "width"])
@pytest.mark.parametrize("name", ["gcn", "sage-mean"])
def test_faults_are_no_flips(name: str, fault: str, tables: tuple[int, int]) -> None:
    """A wrong step, zero point or width, and rows or columns that changed places, are found."""
    network = NETWORKS[name](*tables)
    output, flips = found(network)
    wrong = NETWORKS[name](*tables)
    wrong.load_state_dict(network.state_dict())
    step = wrong.second_sum_step.data
    if fault == "scale":
        step *= 1.05
    elif fault == "columns":
        wrong.second_sum_step.data = step.flip(0)
    elif fault == "width":
        wrong.second_input_bits.data = (wrong.second_input_bits.data - 1).clamp(min=1)
    elif fault == "zero":
        wrong.second_bias.data += 2 * step[0]
    with torch.no_grad():
        answer = wrong(X, *STRUCTURE).numpy()
    answer = np.roll(answer, 1, axis=0) if fault == "rows" else answer
    assert error(output, answer, flips) > TOLERANCE


def test_rows_that_are_explained() -> None:
    """Few rows may differ by little: not more rows, and none by more; the others are held to the tolerance."""
    expected = np.random.default_rng(0).normal(size=(1000, 4))
    expected[0, 0] = 10
    flips = Flips(0.002, 0.05)

    def off(rows: int, by: float) -> np.ndarray:
        actual = expected.copy()
        actual[1 : 1 + rows] += by * 10
        return actual

    explained = compare_outputs({"y": expected}, {"y": off(2, 0.04)}, flips=flips)
    assert (explained.max_rel_error, explained.flipped, explained.moved) == (0, 2, 0)
    assert error(expected, off(3, 0.04), flips) == pytest.approx(0.04)
    assert error(expected, off(1, 0.06), flips) == pytest.approx(0.06)
    assert error(expected, off(2, 0.04), None) == pytest.approx(0.04)
    assert error(expected, np.where(expected == 10, np.nan, expected), flips) == np.inf


def test_models_that_are_not_quantised() -> None:
    """Nothing may differ where nothing is rounded, or only weights are."""

    class Plain(torch.nn.Module):
        """Weights of four bits."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3, X.shape[1]))
            self.step, self.bits = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.full((1,), 4.0))

        def forward(self, x: torch.Tensor, rowptr: torch.Tensor, col: torch.Tensor) -> torch.Tensor:
            """Multiply."""
            return x @ torch.ops.gnn.quantize_rows(self.weight, self.step, self.bits, True, False).T

    given = program(Plain())
    assert not rounds_values(given)
    assert find_flips(given, {"x": X}, STRUCTURE, torch.ones(2, 3)) is None


def test_golden_files_keep_flips(tmp_path: Path) -> None:
    """What may differ is stored with its case; what is no share is refused."""
    path = tmp_path / "golden.npz"
    cases = [GoldenCase("a", {"x": np.ones(2)}, {"y": np.ones(2)}, flips=Flips(0.01, 0.2))]
    write_golden(path, [*cases, GoldenCase("b", {"x": np.ones(2)}, {"y": np.ones(2)})])
    assert [case.flips for case in read_golden(path)] == [Flips(0.01, 0.2), None]
    write_golden(path, [GoldenCase("a", {"x": np.ones(2)}, {"y": np.ones(2)}, flips=Flips(1.5, 0.2))])
    with pytest.raises(UsageError, match="rows that may differ are no share"):
        read_golden(path)


class TwoKinds(torch.nn.Module):
    """Rounds the nodes of one kind, and those of another that it adds up."""

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Answer for the nodes of the first kind."""
        step, bits = torch.full((1,), 0.1), torch.full((1,), 4.0)
        rounded, added = (torch.ops.gnn.quantize_rows(rows, step, bits, True, False) for rows in (x, other))
        return rounded + added.sum(0)


def test_a_kind_without_nodes() -> None:
    """A request may have no nodes of a kind whose rows are rounded."""
    given = (X, X[:0])
    body = torch.export.export(TwoKinds(), given).module()
    names = [SimpleNamespace(name=name) for name in ("x", "other")]
    asked = SimpleNamespace(body=body, inputs=names, prepare=None)
    assert find_flips(asked, dict(zip(("x", "other"), given, strict=True)), (), body(*given)) is not None  # type: ignore[arg-type]
