"""Find the kernels' library and open it, once."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from importlib import metadata
from pathlib import Path

from gnnexport.errors import MissingExtraError

ABI = 1
"""What `GNX_ABI` in `gnnexport/kernels.h` has to be."""

DISABLE = "none"
"""Value of `GNNEXPORT_KERNELS` that leaves the kernels out."""

_FILE = {"darwin": "libgnnexport.dylib", "win32": "gnnexport.dll"}.get(sys.platform, "libgnnexport.so")
_MEND = "Install a C++17 compiler (GCC or Clang) and run: pip install --force-reinstall --no-deps gnnexport"


def library_path() -> Path | None:
    """Return where the installed library lies, or `None` where this installation has none."""
    beside = Path(__file__).parent / _FILE
    if beside.is_file():
        return beside
    # An editable installation has the Python files elsewhere.
    installed = (found.locate_file(f"gnnexport/native/{_FILE}") for found in metadata.distributions(name="gnnexport"))
    return next((Path(str(path)) for path in installed if Path(str(path)).is_file()), None)


@functools.cache
def _opened() -> ctypes.CDLL | str:
    """Return the library, or the reason why it cannot serve."""
    chosen = os.environ.get("GNNEXPORT_KERNELS")
    if chosen == DISABLE:
        return f"GNNEXPORT_KERNELS={DISABLE} leaves them out"
    path = library_path()
    if path is None:
        return "they were not built with this installation"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"{path.name} cannot be opened ({error})"
    if library.gnx_abi() != ABI:
        return f"{path.name} has interface {library.gnx_abi()}, and {ABI} is needed"
    library.gnx_path.restype = ctypes.c_char_p
    library.gnx_message.restype = ctypes.c_char_p
    if library.gnx_path() == b"none":
        return f"GNNEXPORT_KERNELS={chosen}: this processor does not run them so"
    return library


def why_missing() -> str | None:
    """Return why the kernels cannot serve here, or `None` where they can."""
    opened = _opened()
    return opened if isinstance(opened, str) else None


def library() -> ctypes.CDLL:
    """Return the library.

    Raises:
        MissingExtraError: it was not built, does not fit, or was left out.
    """
    opened = _opened()
    if isinstance(opened, str):
        raise MissingExtraError.at("native kernels", opened, _MEND)
    return opened


def path_name() -> str:
    """Return the instruction set in use: `avx512`, `avx2` or `portable`."""
    return bytes(library().gnx_path()).decode()
