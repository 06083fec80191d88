"""Loader functions: the user's own code that returns the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnexport.errors import DataError
from gnnexport.frontends.code import call_function
from gnnexport.frontends.graph_sets import Arrays
from gnnexport.frontends.pickled_graphs import plain
from gnnexport.frontends.plain import arrays_of

RETURN_MEND = (
    "Return a PyG Data, a list of them or a data set, three lists (train, val, test), or a dictionary of arrays"
)


def is_loader(text: str) -> bool:
    """Tell `file.py:function` and `package.module:function` from the path of a file."""
    source, colon, name = text.rpartition(":")
    return bool(colon) and bool(source) and name.isidentifier() and not Path(text).exists()


def call_loader(text: str, folder: Path) -> Arrays:
    """Import a loader function and call it without arguments. This runs the user's code.

    Raises:
        UsageError: there is no such function, or it fails.
        DataError: it returns something else than graphs.
    """
    where = f"data '{text}'"
    loaded: Any = call_function(text, folder, "data", f"The function is called without arguments. {RETURN_MEND}")
    graphs = plain(loaded, where)
    if not isinstance(graphs, Mapping | list | tuple):
        raise DataError.at(where, f"returned a {type(loaded).__name__}, not graphs", RETURN_MEND)
    return arrays_of(graphs, where)
