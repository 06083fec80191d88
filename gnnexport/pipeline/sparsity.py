"""Count the zeros that passes put into weights: as stored, and as executed."""

from __future__ import annotations

from dataclasses import asdict

from gnnexport.bundle.report_schema import SparseWeight, Sparsity
from gnnexport.program.program import Program
from gnnexport.targets.contract import Artefact


def count_sparsity(program: Program, artefact: Artefact) -> Sparsity | None:
    """Return what passes made zero; `None` where none did, whatever happens to be zero.

    Args:
        program: as it was lowered.
        artefact: that was made of it.
    """
    weights = artefact.weights
    numbers = sum(item.numbers for item in weights)
    if not program.sparse_weights or not numbers:
        return None
    return Sparsity(
        weights_stored=sum(item.zeros for item in weights) / numbers,
        weights_executed=sum(item.skipped for item in weights) / numbers,
        dense_bytes=sum(item.dense_bytes for item in weights),
        stored_bytes=sum(item.stored_bytes for item in weights),
        weights=tuple(SparseWeight(**asdict(item)) for item in weights if item.zeros),
    )
