"""The table of coverage has a row for each recipe, and no other."""

from __future__ import annotations

from tests.coverage.table import DOCUMENT, RECIPES, read


def test_the_table_has_every_row_and_no_other() -> None:
    """A row that nobody runs would stay what it was for ever."""
    assert set(read(DOCUMENT.read_text())) == {(recipe.group, recipe.name) for recipe in RECIPES}
