"""Count the edges that passes left out, and the zeros that they put into weights: as stored, and as executed."""

from __future__ import annotations

from dataclasses import asdict

from gnnexport.bundle.report_schema import EdgeSet, SparseWeight, Sparsity
from gnnexport.program.edge_sets import kept
from gnnexport.program.program import Program
from gnnexport.targets.contract import Artefact


def count_sparsity(program: Program, artefact: Artefact) -> Sparsity | None:
    """Return what passes left out or made zero; `None` where none did, whatever happens to be zero.

    Args:
        program: as it was lowered.
        artefact: that was made of it.
    """
    layers = kept(program)
    edges = sum(layer.total for layer in layers)
    removed = edges - sum(layer.kept for layer in layers)
    of_edges = Sparsity(
        edges=removed / edges if edges else None,
        layers=tuple(EdgeSet(name=layer.name, kept=layer.kept, total=layer.total) for layer in layers),
    )
    weights = artefact.weights
    numbers = sum(item.numbers for item in weights)
    if not program.sparse_weights or not numbers:
        return of_edges if layers else None
    skipped = [item.skipped for item in weights if item.skipped is not None]
    return Sparsity(
        edges=of_edges.edges,
        layers=of_edges.layers,
        weights_stored=sum(item.zeros for item in weights) / numbers,
        weights_executed=None if len(skipped) < len(weights) else sum(skipped) / numbers,
        dense_bytes=sum(item.dense_bytes for item in weights),
        stored_bytes=sum(item.stored_bytes for item in weights),
        weights=tuple(SparseWeight(**asdict(item)) for item in weights if item.zeros),
    )
