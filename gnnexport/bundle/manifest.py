"""`manifest.json`: what a bundle is, what it needs, and the hash of every file in it."""

from __future__ import annotations

from importlib import metadata
from typing import Any, Literal

from pydantic import Field

from gnnexport.bundle.layout import DECISIONS, ENGINE, EVAL, GOLDEN, GRAPH, PACKED, ROWS
from gnnexport.bundle.processor import MOST_THREADS, Processor
from gnnexport.bundle.record import Record, parse_record
from gnnexport.bundle.stages import Batched

SCHEMA = 1
TOLERANCE = 1e-4
"""Largest error of an artefact, relative to the largest magnitude of the output."""

FileKind = Literal["model", "engine", "graph", "decisions", "data"]
"""An engine is built from the model; building it again need not give the same bytes, so no digest covers it."""


def installed_version() -> str:
    """Return the version of gnnexport that runs."""
    try:
        return metadata.version("gnnexport")
    except metadata.PackageNotFoundError:
        return "unknown"


class SourceModel(Record):
    """The file the bundle was made from."""

    name: str
    class_name: str = ""
    sha256: str = ""


class Tensor(Record):
    """An input or output: dtype is a numpy name, a dynamic size is a name.

    Args:
        types: how many types there are, where the values are types.
        ends: which nodes the two rows of an edge index number, where there are several kinds: sizes.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    role: str | None = None
    types: int | None = None
    ends: tuple[int | str, ...] | None = None


class Graph(Record):
    """The graph baked into the bundle; its digest is that of `digest.structure_digest`."""

    nodes: int
    edges: int
    edge_index_sha256: str | None = None


class AppliedPass(Record):
    """A pass that shaped the model, as its spec."""

    spec: str
    seed: int | None = None


class Target(Record):
    """What the model was lowered to.

    Args:
        spec: as on the command line, with its options.
        runtime: backend of `gnnexport.runtime` that loads it.
        model_file: path inside the bundle.
        threads: thread count it was measured with; `None` leaves it to the backend.
        versions: libraries that made it.
        requirements: what the device must have.
    """

    spec: str
    runtime: str
    model_file: str
    threads: int | None = Field(None, ge=1, le=MOST_THREADS)
    versions: dict[str, str] = Field(default_factory=dict)
    requirements: dict[str, Any] = Field(default_factory=dict)


KERNELS = "gnnexport"
"""Name of our own kernels among native libraries."""


class NativeLibrary(Record):
    """A kernel library that has to be installed to load the model; never shipped in a bundle."""

    name: str
    abi: int


class File(Record):
    """One file of the bundle, by its path inside it."""

    path: str
    kind: FileKind
    size_bytes: int
    sha256: str


class Manifest(Record):
    """The whole manifest. `files` and `digest` are filled in by `BundleWriter.seal`.

    Args:
        prepare: who turns the edge index into what the model reads: `baked` in, inside the `model`, or the `runtime`.
        batched: stages and tables, in mode `batched`.
        tolerance: largest error allowed, relative to the largest magnitude of the output.
        digest: over model files, graph and decisions.
    """

    schema_version: int = Field(SCHEMA, validation_alias="schema", serialization_alias="schema")
    gnnexport: str = Field(default_factory=installed_version)
    model: SourceModel
    task: str | None = None
    mode: Literal["full", "batched", "graphs"] = "full"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    prepare: Literal["baked", "model", "runtime"] = "baked"
    graph: Graph | None = None
    batched: Batched | None = None
    passes: tuple[AppliedPass, ...] = ()
    seed: int = 0
    target: Target
    native_library: NativeLibrary | None = None
    decided_on: Processor | None = None
    tolerance: float = Field(TOLERANCE, ge=0)
    files: tuple[File, ...] = ()
    digest: str = ""

    def to_json(self) -> str:
        """Write the manifest as text."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def kind_of(path: str) -> FileKind:
    """Tell what part a file plays from its path inside the bundle."""
    known: dict[str, FileKind] = {
        DECISIONS: "decisions", ENGINE: "engine", GRAPH: "graph", GOLDEN: "data", EVAL: "data"
    }  # fmt: skip
    if path.endswith((".npy", PACKED)):  # rows of stages follow from the rest
        return "data" if path.startswith(ROWS) else "graph"
    return known.get(path, "model")


def parse_manifest(text: str, where: str) -> Manifest:
    """Parse a manifest.

    Raises:
        UsageError: not a manifest, or one of a schema newer than this.
    """
    mend = "Make the bundle again with 'gnnexport compress' or 'gnnexport export'"
    return parse_record(Manifest, text, where, schema=SCHEMA, mend=mend)
