"""`.npz` files with a JSON description inside: written compressed, read without pickle."""

from __future__ import annotations

import json
import lzma
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import UsageError

MEND = "Make the bundle again"
SCHEMA = 1
_DESCRIPTION = "description"
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, OverflowError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError, struct.error, tokenize.TokenError, SyntaxError, TypeError, AttributeError,
)  # fmt: skip
"""What the standard library and numpy's parser of array headers raise on a damaged file."""


def write_arrays(path: Path, description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays and their description."""
    text = json.dumps(description, sort_keys=True, allow_nan=False)
    np.savez_compressed(path, allow_pickle=False, **{_DESCRIPTION: np.array(text)}, **arrays)


def load_arrays(
    path: Path, error: type[UsageError], mend: str, *, names: Container[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Read the arrays of an `.npz` file; no object is unpickled.

    Args:
        path: of the file.
        error: what to raise.
        mend: for its message.
        names: of the arrays to read; `None` for every one.

    Raises:
        UsageError: of the class given: no such file, damaged, or not such a file.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file, warnings.catch_warnings():
            # numpy warns of old names of types in a header, and of headers as Python 2 wrote them.
            warnings.simplefilter("ignore")
            return {name: file[name] for name in file.files if names is None or name in names}
    except FileNotFoundError:
        raise error.at(str(path), "no such file", mend) from None
    except UNREADABLE as fault:
        raise error.at(str(path), f"cannot be read ({fault})", mend) from fault


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `write_arrays` wrote.

    Raises:
        UsageError: damaged, or not such a file.
    """
    arrays = load_arrays(path, UsageError, MEND)
    return _described(path, arrays), arrays


def read_description(path: Path) -> dict[str, Any]:
    """Read the description alone, whatever the arrays take; raises as `read_arrays` does."""
    return _described(path, load_arrays(path, UsageError, MEND, names={_DESCRIPTION}))


def _described(path: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Take the description out of the arrays."""
    try:
        description = json.loads(str(arrays.pop(_DESCRIPTION)))
    except (ValueError, KeyError, RecursionError) as error:
        raise UsageError.at(str(path), f"cannot be read ({error})", MEND) from error
    if not isinstance(description, dict):
        raise UsageError.at(str(path), "has no description inside", MEND)
    if description.get("schema") not in (SCHEMA, None):
        what = f"schema {description['schema']} is not {SCHEMA}, the one this installation reads"
        raise UsageError.at(str(path), what, "Run 'pip install --upgrade gnnexport'")
    return description
