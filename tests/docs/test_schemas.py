"""The published JSON Schemas are those of the code."""

from __future__ import annotations

import pytest

from docs.make_schemas import SCHEMAS, path_of, schema_text


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schema_is_up_to_date(name: str) -> None:
    """A changed file format comes with its schema: run `make docs`."""
    assert path_of(name).read_text() == schema_text(SCHEMAS[name])
