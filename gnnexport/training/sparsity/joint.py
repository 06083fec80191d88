"""Leave entries of weights out together with edges, by the same rule: what multiplies little."""

from __future__ import annotations

from collections.abc import Sequence

from gnnexport.program.program import Program
from gnnexport.training.sparsity.norms import Inputs, squares_read
from gnnexport.training.sparsity.patterns import UNSTRUCTURED
from gnnexport.training.sparsity.projection import Entries
from gnnexport.training.sparsity.recipe import prunable, values_of
from gnnexport.training.sparsity.zeros import apply_masks


def without_entries(program: Program, graphs: Sequence[Inputs], sparsity: float) -> Program:
    """Return the Program without the entries of weights that do least on the edges its layers have left.

    They are chosen among all weights by magnitude times the norm of what they read (Unifews, ICML 2025). Later training
    keeps their zeros.

    Args:
        program: split; left as it is.
        graphs: that norms are of, inputs by name.
        sparsity: share of the entries that goes.
    """
    program = program.clone().train(False)
    weights = prunable(program)
    entries = Entries(weights, UNSTRUCTURED, read=squares_read(program, weights, graphs))
    apply_masks(program, entries.masks(values_of(program), sparsity))
    return program
