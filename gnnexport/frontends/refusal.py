"""How a file is refused: what it asked for, made safe to print, and the way in that remains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gnnexport.errors import GnnExportError, UnsafeFileError, UsageError

TRUST_MEND = (
    "Give the code with --builder package.module:function and the weights as a state dict, "
    "or pass --trust if you know who wrote this file"
)
OWN_CLASS_MEND = (
    "For a class of your own pass --trust --code train.py, where train.py is the script that defines it; or save "
    "the weights alone, torch.save(model.state_dict(), path), and pass --builder package.module:function or "
    "--builder train.py:build"
)
AGAIN_MEND = "Copy it again, or write it again with torch.save"
LONGEST_NAME = 120
LONGEST_REASON = 300


def quoted(name: object) -> str:
    """Quote text from a file: no control characters, bounded length."""
    text = ascii(name) if isinstance(name, str) else f"'{type(name).__name__}'"
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…'"


def one_line(error: BaseException) -> str:
    """Return the first line of what an error says, bounded."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "without a word"
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def unsafe(path: Path, what: str, mend: str = TRUST_MEND) -> UnsafeFileError:
    """Build the error for a file that asks for something not on the safe list."""
    error = UnsafeFileError.at(str(path), what, mend)
    assert isinstance(error, UnsafeFileError)
    return error


@contextmanager
def rebuilding(path: Path) -> Iterator[None]:
    """Raise `UnsafeFileError` where the records of the file cannot become objects."""
    try:
        yield
    except GnnExportError:
        raise
    except RecursionError:
        raise unsafe(path, "is nested too deeply") from None
    except Exception as error:
        # Installed code met what it cannot work with: the file is at fault, not we.
        raise unsafe(path, f"holds a state that does not fit its class ({quoted(str(error))})") from error


def broken(path: Path, what: str, mend: str = AGAIN_MEND) -> UsageError:
    """Build the error for a file that is truncated or of another format."""
    error = UsageError.at(str(path), what, mend)
    assert isinstance(error, UsageError)
    return error


def require_file(path: Path, mend: str) -> None:
    """Refuse what is no ordinary file: a missing one, a folder, a pipe, an endless device.

    Raises:
        UsageError: it is not.
    """
    try:
        if path.is_file():
            return
        what = "is not a file" if path.exists() else "no such file"
    except OSError as error:
        what = f"cannot be looked at ({one_line(error)})"
    raise broken(path, what, mend)
