"""Write a bundle into a temporary folder beside its place and rename it when it is complete."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gnnexport.bundle.atomic import FULL, output_error, sync
from gnnexport.bundle.digest import bundle_digest, file_sha256
from gnnexport.bundle.layout import DECISIONS, MANIFEST, UNLISTED
from gnnexport.bundle.manifest import File, Manifest, kind_of
from gnnexport.errors import UsageError


def check_destination(path: Path, *, force: bool = False) -> None:
    """Check early that a bundle may be written there.

    Raises:
        UsageError: a file is there or above, an existing bundle without `force`, or another non-empty folder.
    """
    try:
        _check_destination(path, force)
    except OSError as error:
        raise output_error(path, error, gone=True) or error from error


def _check_destination(path: Path, force: bool) -> None:
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                mend = "Choose another folder with -o, or move the file away"
                raise UsageError.at(str(path), f"'{parent}' is a file, not a folder", mend)
            if not os.access(parent, os.W_OK | os.X_OK):
                raise UsageError.at(str(path), f"'{parent}' may not be written", "Choose another folder with -o")
            break
    if not path.exists():
        return
    if not path.is_dir():
        raise UsageError.at(
            str(path), "is a file, not a folder", "Choose another folder with -o, or move the file away"
        )
    if not any(path.iterdir()):
        return
    if not _is_bundle(path):
        mend = "Choose another folder with -o; only a bundle is replaced, and only with --force"
        raise UsageError.at(str(path), "is a folder with other files in it", mend)
    if not force:
        raise UsageError.at(
            str(path), "a bundle exists there already", "Give --force to replace it, or -o another folder"
        )


class BundleWriter:
    """Hold a temporary folder that becomes the bundle, or leaves nothing.

    Use it as `with BundleWriter(path) as writer:`, write files into `writer.folder`, then `writer.seal(manifest)`
    (from here on `writer.folder` can be opened, run and measured), then `writer.commit()`. Leaving the block
    without `commit`, by an error or by Ctrl-C too, removes everything and keeps the bundle that was there.
    """

    def __init__(self, destination: Path, *, force: bool = False) -> None:
        """Remember where the bundle goes; nothing is written yet.

        Args:
            destination: folder of the bundle.
            force: replace an existing bundle; it is kept until the new one is complete.

        Raises:
            UsageError: the destination has no name of its own.
        """
        self.destination = Path(destination).resolve()
        if not self.destination.name:
            raise UsageError.at(str(destination), "cannot be replaced by a bundle", "Choose a folder inside it with -o")
        self.force = force
        self.folder = self.destination.with_name(f".{self.destination.name}.{secrets.token_hex(4)}.tmp")
        self._old = self.folder.with_suffix(".old")
        self._made: list[Path] = []
        self._sealed: Manifest | None = None
        self._committed = False

    def __enter__(self) -> BundleWriter:
        check_destination(self.destination, force=self.force)
        try:
            self._make_parents()
            self.folder.mkdir()
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError) and (problem := output_error(self.destination, error, gone=True)):
                raise problem from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gone = not self.folder.exists()
        if not self._committed:
            self._discard()
        if not isinstance(error, OSError) or not self._is_ours(error):
            return
        if problem := output_error(self.destination, error, gone=gone):
            raise problem from error

    def write_decisions(self, decisions: Mapping[str, Any]) -> None:
        """Write `decisions.json`: what timing decided, so that a replay gives the same digest."""
        text = json.dumps(decisions, indent=2, sort_keys=True, allow_nan=False) + "\n"
        (self.folder / DECISIONS).write_text(text, encoding="utf-8")

    def seal(self, manifest: Manifest) -> Manifest:
        """Hash every file in the folder and write the manifest; return it with files and digest filled in."""
        files = tuple(_describe(self.folder, path) for path in _listed(self.folder))
        sealed = manifest.model_copy(update={"files": files, "digest": bundle_digest(files)})
        (self.folder / MANIFEST).write_text(sealed.to_json(), encoding="utf-8")
        self._sealed = sealed
        return sealed

    def commit(self) -> Path:
        """Put the complete folder in its place and return that place.

        Raises:
            UsageError: the place was taken meanwhile, or cannot be written.
        """
        present = {path.relative_to(self.folder).as_posix() for path in _listed(self.folder)}
        if self._sealed is None or present != {file.path for file in self._sealed.files}:
            raise RuntimeError("files were added or removed after seal(): seal the bundle once all are written")
        for path in [*_all(self.folder), self.folder]:
            sync(path)
        check_destination(self.destination, force=self.force)
        self._swap()
        self._committed = True
        return self.destination

    def _swap(self) -> None:
        replaced = self.destination.exists()
        if replaced:
            self.destination.rename(self._old)
        try:
            self.folder.rename(self.destination)
        except BaseException:
            if replaced:
                self._old.rename(self.destination)
            raise
        shutil.rmtree(self._old, ignore_errors=True)
        sync(self.destination.parent)

    def _is_ours(self, error: OSError) -> bool:
        """Tell a failure to write the bundle from one that names a file elsewhere."""
        if error.filename is None or error.errno in FULL:
            return True
        named = Path(os.fsdecode(error.filename)).absolute() if isinstance(error.filename, str | bytes) else None
        places = (self.folder, self.destination, self._old)
        return named == self.destination.parent or any(named and named.is_relative_to(place) for place in places)

    def _make_parents(self) -> None:
        missing = [parent for parent in self.destination.parents if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._made.append(parent)

    def _discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.destination.exists():
            shutil.rmtree(self._old, ignore_errors=True)
        for parent in reversed(self._made):
            try:
                parent.rmdir()
            except OSError:
                return


def _is_bundle(path: Path) -> bool:
    """Tell a bundle of whatever schema from a folder of something else."""
    try:
        values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"schema", "target", "digest"} <= values.keys()


def _all(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_dir())


def _listed(folder: Path) -> Iterator[Path]:
    return (path for path in _all(folder) if path.is_file() and path.relative_to(folder).as_posix() not in UNLISTED)


def _describe(folder: Path, path: Path) -> File:
    name = path.relative_to(folder).as_posix()
    return File(path=name, kind=kind_of(name), size_bytes=path.stat().st_size, sha256=file_sha256(path))
