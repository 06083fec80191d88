"""A bundle in a few lines for people."""

from __future__ import annotations

from gnnexport.bundle.reader import Bundle


def summarise(bundle: Bundle) -> str:
    """Say what the manifest says: model, target, graph, inputs and outputs, passes, and every file with its size."""
    manifest = bundle.manifest
    graph = manifest.graph
    lines = [
        f"bundle of {manifest.model.class_name} ({manifest.model.name}), mode {manifest.mode}",
        f"target {manifest.target.spec}, {manifest.target.threads} threads",
        f"model file {manifest.target.model_file}, {bundle.size_bytes:,} bytes, digest {manifest.digest}",
        "" if graph is None else f"graph of {graph.nodes:,} nodes and {graph.edges:,} edges, {manifest.prepare}",
        "inputs: " + ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in manifest.inputs),
        "outputs: " + ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in manifest.outputs),
        "passes: " + (", ".join(item.spec for item in manifest.passes) or "none"),
        *(f"  {file.size_bytes:>12,}  {file.kind:<10} {file.path}" for file in manifest.files),
    ]
    return "\n".join(line for line in lines if line)
