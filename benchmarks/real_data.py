"""Where the real graphs lie: the one place that tests and benchmarks ask.

The folder is named by the environment variable GNNEXPORT_DATA; by default it is `../shared/data` beside
the repository.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "GNNEXPORT_DATA"
ROOT = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """Return the folder, whether or not it exists."""
    return Path(os.environ.get(VARIABLE, ROOT.parent / "shared" / "data"))


def find(name: str) -> Path | None:
    """Return the file of a data set, or `None` where it is absent."""
    path = data_folder() / f"{name}.npz"
    return path if path.is_file() else None


def reason(name: str) -> str:
    """Say why something that needs a data set is skipped."""
    return f"{data_folder() / name}.npz is absent; set {VARIABLE} to the folder of the real graphs"


def require(name: str) -> Path:
    """Return the file of a data set, or end the program with the reason."""
    path = find(name)
    if path is None:
        raise SystemExit(reason(name))
    return path
