"""The arrays of a data file by name, whatever the format; nothing in the file is run unless it is trusted."""

from __future__ import annotations

from pathlib import Path

from gnnexport.errors import DataError
from gnnexport.frontends.graph_sets import KNOWN, PARTED, Arrays, unused_note
from gnnexport.frontends.hetero import is_of_kind, kind_arrays
from gnnexport.frontends.npz import read_npz
from gnnexport.frontends.pickled_graphs import load_pickled
from gnnexport.frontends.plain import arrays_of

TORCH_SUFFIXES = (".pt", ".pth", ".pkl")
FORMAT_MEND = "Save a PyG Data with torch.save as .pt, or the arrays x, edge_index, y, train_mask … as .npz"


def read_arrays(path: Path, *, trust: bool = False, code: Path | None = None) -> Arrays:
    """Read a file's tensors by name; a list of graphs comes as one disjoint union.

    Raises:
        DataError: an unknown format, a damaged file, or no arrays in it.
        UnsupportedError: several graphs with several types of nodes, or one with times.
        UnsafeFileError: a pickle that names something not on the safe list.
    """
    _require_readable(path)
    if path.suffix == ".npz":
        # Pairs that `RandomLinkSplit` keeps apart come as PyG graphs; arrays are given joined.
        tensors, others = read_npz(path, lambda name: name in KNOWN - set(PARTED) or is_of_kind(name))
        of_kinds = {name for name in tensors if is_of_kind(name)}
        if of_kinds and "edge_index" not in tensors:
            found = kind_arrays(tensors, str(path))
            found.notes += unused_note(set(others))
            return found
        plain = {name: value for name, value in tensors.items() if name not in of_kinds}
        return Arrays(plain, notes=unused_note({*others, *of_kinds}))
    if path.suffix in TORCH_SUFFIXES:
        return arrays_of(load_pickled(path, trust=trust, code=code), str(path))
    raise DataError.at(str(path), f"unknown kind of data file '{path.suffix}'", FORMAT_MEND)


def _require_readable(path: Path) -> None:
    """Refuse what is not an ordinary file before it is opened: a pipe would wait, a device would never end."""
    try:
        if path.is_dir():
            raise DataError.at(str(path), "is a folder, not a file", FORMAT_MEND)
        if path.exists() and not path.is_file():
            raise DataError.at(str(path), "is a pipe or a device, not a file", FORMAT_MEND)
        with path.open("rb"):
            return
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise DataError.at(str(path), "no such file", FORMAT_MEND) from error
    except OSError as error:
        what = f"cannot be opened ({(error.strerror or 'unknown reason').lower()})"
        raise DataError.at(str(path), what, "Let this user read it") from error
