"""Open a bundle: check its version and the hash of every file before anything is read from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gnnexport.bundle.digest import bundle_digest, file_sha256
from gnnexport.bundle.evaluation import EvalData, read_eval
from gnnexport.bundle.golden import GoldenCase, Laws, read_golden, read_laws
from gnnexport.bundle.layout import DECISIONS, EVAL, GOLDEN, MANIFEST, REPORT
from gnnexport.bundle.manifest import File, Manifest, parse_manifest
from gnnexport.bundle.report_schema import Report, parse_report
from gnnexport.errors import UsageError

_MEND = "Copy the bundle again from where it was made, or make it again"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those its manifest lists."""

    path: Path
    manifest: Manifest

    @property
    def model_file(self) -> Path:
        """Path of the model."""
        return self.path / self.manifest.target.model_file

    @property
    def size_bytes(self) -> int:
        """Bytes of the model's own files, as the report counts them."""
        return sum(file.size_bytes for file in self.manifest.files if file.kind in ("model", "engine"))

    def golden(self, count: int | None = None) -> tuple[GoldenCase, ...]:
        """Read the inputs with their expected outputs, or the first `count` of them; empty when there are none."""
        return read_golden(self.path / GOLDEN, count=count) if self._has(GOLDEN) else ()

    def laws(self) -> Laws:
        """Read which laws the golden cases have to obey; none when there are none."""
        return read_laws(self.path / GOLDEN) if self._has(GOLDEN) else Laws()

    def evaluation(self) -> EvalData | None:
        """Read what accuracy is measured on; `None` when there is none."""
        return read_eval(self.path / EVAL) if self._has(EVAL) else None

    def decisions(self) -> dict[str, Any]:
        """Read what timing decided; empty when nothing was recorded."""
        if not self._has(DECISIONS):
            return {}
        try:
            values = json.loads(_read_text(self.path / DECISIONS))
        except (ValueError, RecursionError) as error:
            raise UsageError.at(str(self.path / DECISIONS), f"is not JSON ({error})", _MEND) from error
        if not isinstance(values, dict):
            raise UsageError.at(str(self.path / DECISIONS), "does not hold a JSON object", _MEND)
        return values

    def report(self) -> Report | None:
        """Read the report; `None` when there is none."""
        path = self.path / REPORT
        return parse_report(_read_text(path), str(path)) if path.is_file() else None

    def _has(self, name: str) -> bool:
        return any(file.path == name for file in self.manifest.files)


def open_bundle(path: Path | str) -> Bundle:
    """Open a bundle and verify it.

    Raises:
        UsageError: no bundle there, a newer schema, or a file that is missing, changed or outside the bundle.
    """
    folder = Path(path)
    manifest = parse_manifest(_read_manifest(folder), str(folder / MANIFEST))
    for file in manifest.files:
        _verify(folder, file)
    if bundle_digest(manifest.files) != manifest.digest:
        raise UsageError.at(str(folder / MANIFEST), "the digest does not cover the files listed", _MEND)
    listed = {file.path for file in manifest.files}
    if manifest.target.model_file not in listed:
        what = f"the model file '{manifest.target.model_file}' is not among the files listed"
        raise UsageError.at(str(folder / MANIFEST), what, _MEND)
    return Bundle(folder.resolve(), manifest)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError.at(str(path), "not UTF-8 text; the file is damaged", _MEND) from None


def _read_manifest(folder: Path) -> str:
    try:
        return (folder / MANIFEST).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError.at(str(folder / MANIFEST), "not UTF-8 text; the file is damaged", _MEND) from None
    except OSError:
        pass
    if not folder.exists():
        raise UsageError.at(str(folder), "no such bundle", "Give the folder that 'gnnexport compress' wrote")
    if not folder.is_dir():
        raise UsageError.at(str(folder), "a bundle is a folder, this is a file", "Give the folder the file lies in")
    inside = sorted(found.parent.name for found in folder.glob(f"*/{MANIFEST}"))
    if inside:
        mend = f"Give one of them, such as '{folder / inside[0]}'"
        raise UsageError.at(str(folder), f"holds several bundles: {', '.join(inside)}", mend)
    raise UsageError.at(
        str(folder), f"not a bundle: it has no readable {MANIFEST}", "Give the folder 'gnnexport compress' wrote"
    )


def _verify(folder: Path, file: File) -> None:
    relative = PurePosixPath(file.path)
    path = folder / relative
    outside = relative.is_absolute() or ".." in relative.parts or "\\" in file.path or ":" in file.path
    if outside or not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError.at(str(folder / MANIFEST), f"lists '{file.path}', which is outside the bundle", _MEND)
    if not path.is_file():
        raise UsageError.at(str(path), "is listed in the manifest but missing", _MEND)
    size = path.stat().st_size
    if size != file.size_bytes:
        raise UsageError.at(str(path), f"has {size} bytes where the manifest says {file.size_bytes}", _MEND)
    if file_sha256(path) != file.sha256:
        raise UsageError.at(str(path), "does not have the SHA-256 the manifest gives; it was changed", _MEND)
