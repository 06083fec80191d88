"""Write files so that a crash leaves the old one or none."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from gnnexport.errors import GnnExportError, UsageError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""No more room: these come from writing, whatever file they name."""
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_OTHER = {errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole.

    Raises:
        UsageError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (problem := output_error(path, error, gone=not path.parent.exists())):
            raise problem from error
        raise


def sync(path: Path) -> None:
    """Force a file or folder to disk; a full disk may show only here."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def output_error(path: Path, error: OSError, *, gone: bool = False) -> GnnExportError | None:
    """Turn a failed write into an error with its mend; `None` when the cause is not the output place.

    Args:
        path: the output place.
        error: of the system.
        gone: the folder to write into cannot be made, or was taken away: only then a missing file is of the place.
    """
    reason = error.strerror or str(error)
    if error.errno in FULL:
        mend = "Free some space, or choose a folder on another disk with -o"
    elif error.errno in _FORBIDDEN:
        mend = "Choose a folder you may write to with -o"
    elif error.errno in _OTHER or (gone and error.errno == errno.ENOENT):
        mend = "Choose another folder with -o"
    else:
        return None
    return UsageError.at(str(path), f"cannot be written ({reason}); nothing was kept", mend)
