"""The zip file that `torch.save` writes, read without torch: one pickle and the raw storages beside it.

torch's own reader hands an archive that looks like TorchScript to another loader, whatever pickle module
it was given, and believes the sizes that a file claims. This reader knows one layout and checks it.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

from gnnexport.frontends.refusal import broken, one_line, quoted, require_file, unsafe

LEGACY_MEND = "Save it again with torch.save of torch 1.6 or later, which writes zip files"
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)
"""What the standard library raises on a damaged zip file."""

TORCHSCRIPT_RECORDS = ("constants.pkl", "code")


class Archive:
    """Open a `torch.save` file for reading; a context manager.

    Raises:
        UsageError: the file is missing, truncated, or not a zip file.
        UnsafeFileError: the archive is not laid out as `torch.save` does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        require_file(path, "Give the path of a file written by torch.save")
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise broken(path, f"cannot be read ({one_line(error)})", "Ask for the right to read it") from error
        if magic != b"PK\x03\x04":
            what = "is empty" if not magic else "is not a zip file, so not what torch.save writes today"
            raise broken(path, what, LEGACY_MEND)
        try:
            self._zip = zipfile.ZipFile(path)
        except DAMAGE as error:
            raise broken(path, "is truncated or damaged: its table of contents cannot be read") from error
        try:
            self._entries = self._check_layout()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def read_pickle(self) -> bytes:
        """Return the bytes of the pickle."""
        return self._read(self._entry("data.pkl"))

    def storage_size(self, key: str) -> int:
        """Return the number of bytes of a storage."""
        return self._entry(f"data/{key}").file_size

    def read_storage_into(self, key: str, buffer: memoryview) -> None:
        """Fill a buffer of exactly `storage_size(key)` bytes."""
        try:
            with self._zip.open(self._entry(f"data/{key}")) as file:
                done = 0
                while done < len(buffer):
                    chunk = file.read(min(1 << 24, len(buffer) - done))
                    if not chunk:
                        raise broken(self.path, f"is truncated in storage {quoted(key)}")
                    buffer[done : done + len(chunk)] = chunk
                    done += len(chunk)
                file.read(1)
        except DAMAGE as error:
            raise broken(self.path, f"is damaged in storage {quoted(key)}") from error

    def _entry(self, name: str) -> zipfile.ZipInfo:
        if name not in self._entries:
            raise broken(self.path, f"has no record {quoted(name)}")
        return self._entries[name]

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        try:
            return self._zip.read(entry)
        except DAMAGE as error:
            raise broken(self.path, f"is damaged in record {quoted(entry.filename)}") from error

    def _check_layout(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        folders = {tuple(info.filename.split("/")[1:2]) for info in self._zip.infolist()}
        if any((name,) in folders for name in TORCHSCRIPT_RECORDS):
            raise unsafe(self.path, "is a TorchScript archive, not a pickled module")
        for info in self._zip.infolist():
            _, slash, name = info.filename.partition("/")
            if not slash or name in entries:
                raise unsafe(self.path, f"holds the record {quoted(info.filename)} twice or outside a folder")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
                raise unsafe(self.path, f"record {quoted(info.filename)} is compressed or encrypted")
            entries[name] = info
        if len({info.filename.partition("/")[0] for info in entries.values()}) > 1:
            raise unsafe(self.path, "holds records in several folders")
        if sum(info.file_size for info in entries.values()) > self.path.stat().st_size:
            raise unsafe(self.path, "its records overlap or are larger than the file")
        self._entries = entries
        if "byteorder" in entries and self._read(entries["byteorder"]) != b"little":
            raise broken(self.path, "was written on a big-endian machine", "Write it again on a little-endian one")
        return entries
