"""Find the kernels' library and open it, once."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from gnnexport.errors import MissingExtraError

ABI = 6
"""What `GNX_ABI` in `gnnexport/kernels.h` has to be."""

PATHS = ("amx", "avx512", "avx2", "portable")
"""Instruction sets that the kernels are built for; `GNNEXPORT_KERNELS` names one."""

DISABLE = "none"
"""Value of `GNNEXPORT_KERNELS` that leaves the kernels out."""

FILE = {"darwin": "libgnnexport.dylib", "win32": "gnnexport.dll"}.get(sys.platform, "libgnnexport.so")
# The cache of pip may hold a wheel without kernels.
_REINSTALL = "pip install --force-reinstall --no-deps --no-cache-dir gnnexport"
_MEND = f"Install a C++17 compiler (GCC or Clang) and run: {_REINSTALL}"
_UNSET = "Unset GNNEXPORT_KERNELS"


class _Missing(NamedTuple):
    """Why the kernels cannot serve, and what helps."""

    what: str
    mend: str


@functools.cache
def library_path() -> Path | None:
    """Return where the installed library lies, or `None` where this installation has none."""
    beside = Path(__file__).parent / FILE
    if beside.is_file():
        return beside
    # An editable installation has the Python files elsewhere. Installations further down the path are not this one, and
    # what setuptools once left in the sources is none.
    installed = (found for found in metadata.distributions(name="gnnexport") if found.read_text("WHEEL") is not None)
    first = next(installed, None)
    path = None if first is None else Path(str(first.locate_file(f"gnnexport/native/{FILE}")))
    return path if path is not None and path.is_file() else None


@functools.cache
def _opened() -> ctypes.CDLL | _Missing:
    """Return the library, or why it cannot serve."""
    chosen = os.environ.get("GNNEXPORT_KERNELS")
    if chosen == DISABLE:
        return _Missing(f"GNNEXPORT_KERNELS={DISABLE} leaves them out", _UNSET)
    path = library_path()
    if path is None:
        return _Missing("they were not built with this installation", _MEND)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return _Missing(f"{path.name} cannot be opened ({error})", _MEND)
    if library.gnx_abi() != ABI:
        return _Missing(f"{path.name} has interface {library.gnx_abi()}, and {ABI} is needed", _MEND)
    library.gnx_path.restype = ctypes.c_char_p
    library.gnx_message.restype = ctypes.c_char_p
    if library.gnx_path() == b"none":
        what = f"GNNEXPORT_KERNELS={chosen} names no instruction set of this processor"
        return _Missing(what, f"Set it to one of {', '.join(PATHS)} that the processor has, to {DISABLE}, or unset it")
    return library


def why_missing() -> str | None:
    """Return why the kernels cannot serve here, or `None` where they can."""
    opened = _opened()
    return opened.what if isinstance(opened, _Missing) else None


def how_to_mend() -> str:
    """Return what helps where the kernels cannot serve."""
    opened = _opened()
    return opened.mend if isinstance(opened, _Missing) else ""


def library() -> ctypes.CDLL:
    """Return the library.

    Raises:
        MissingExtraError: it was not built, does not fit, or was left out.
    """
    opened = _opened()
    if isinstance(opened, _Missing):
        raise MissingExtraError.at("native kernels", opened.what, opened.mend)
    return opened


def path_name() -> str:
    """Return the instruction set in use: `amx`, `avx512`, `avx2` or `portable`."""
    return bytes(library().gnx_path()).decode()
