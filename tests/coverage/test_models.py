"""Every model is covered as the table says, or better."""

from __future__ import annotations

import pytest

from tests.coverage.models import MODELS
from tests.coverage.recipe import Recipe
from tests.coverage.table import COLUMNS, QUICK, worse

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("recipe", MODELS, ids=str)
def test_onnx_runtime(recipe: Recipe) -> None:
    """No cell of ONNX Runtime that CI looks at is worse."""
    assert worse(recipe, QUICK) == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", MODELS, ids=str)
def test_other_cells(recipe: Recipe) -> None:
    """None of the other cells is worse."""
    assert worse(recipe, [column for column in COLUMNS if column not in QUICK]) == []
