"""Hashes of files, of a bundle, and of a graph's structure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.manifest import File

DIGESTED = frozenset({"model", "graph", "decisions"})
"""Kinds of file the digest of a bundle covers: replaying its decisions gives the same digest."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def bundle_digest(files: Iterable[File]) -> str:
    """Return the digest of a bundle from its listed files, whatever their order."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        if file.kind in DIGESTED:
            digest.update(f"{file.path}\0{file.sha256}\n".encode())
    return digest.hexdigest()


def structure_digest(edge_index: NDArray[np.integer]) -> str:
    """Return the SHA-256 of an edge index `[2, num_edges]`, the same for int32 and int64."""
    return hashlib.sha256(np.ascontiguousarray(edge_index, dtype="<i8").tobytes()).hexdigest()
