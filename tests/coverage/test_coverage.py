"""No cell of the table of coverage gets worse."""

from __future__ import annotations

import pytest

from tests.coverage.cells import BEST
from tests.coverage.recipe import Recipe
from tests.coverage.table import COLUMNS, DOCUMENT, RECIPES, read, run

QUICK = tuple(column for column in COLUMNS if column.startswith("ort"))
OTHERS = tuple(column for column in COLUMNS if column not in QUICK)


@pytest.fixture(scope="module")
def documented() -> dict[tuple[str, str], dict[str, str]]:
    """The table as it stands."""
    return read(DOCUMENT.read_text())


def worse(recipe: Recipe, columns: tuple[str, ...], documented: dict[tuple[str, str], dict[str, str]]) -> list[str]:
    """Name the cells that came out worse than documented."""
    expected = documented[recipe.group, recipe.name]
    ranks = {outcome: rank for rank, outcome in enumerate(BEST)}
    return [
        f"{column}: {cell.outcome}, was {expected[column]} ({cell.reason})"
        for column, cell in run(recipe, columns).items()
        if ranks[cell.outcome] > ranks[expected[column]]  # type: ignore[index]
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=[f"{recipe.group}: {recipe.name}" for recipe in RECIPES])
@pytest.mark.filterwarnings("ignore")
def test_no_cell_of_onnx_runtime_is_worse(recipe: Recipe, documented: dict[tuple[str, str], dict[str, str]]) -> None:
    """Every row, in both modes, on ONNX Runtime."""
    assert worse(recipe, QUICK, documented) == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=[f"{recipe.group}: {recipe.name}" for recipe in RECIPES])
@pytest.mark.filterwarnings("ignore")
def test_no_cell_of_the_other_targets_is_worse(
    recipe: Recipe, documented: dict[tuple[str, str], dict[str, str]]
) -> None:
    """The same on OpenVINO, and engines of TensorRT."""
    assert worse(recipe, OTHERS, documented) == []


def test_the_table_has_every_row_and_no_other(documented: dict[tuple[str, str], dict[str, str]]) -> None:
    """A row that nobody runs would stay what it was for ever."""
    assert set(documented) == {(recipe.group, recipe.name) for recipe in RECIPES}
