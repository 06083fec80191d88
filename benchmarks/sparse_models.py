"""Time whole models without some edges and weights against the same models with all of them, on the same kernels.

    python -m benchmarks.sparse_models

GraphSAGE and GCN of three layers on power-law graphs, untrained: which edges and weights go decides numbers, not how
many there are. Contenders of one table take turns in blocks.
"""

from __future__ import annotations

from benchmarks import whole_models
from gnnexport.passes.contract import Pass
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.passes.sparsify_weights import SparsifyWeights

WAYS: dict[str, Pass] = {
    "half of the edges": SparsifyEdges(0.5, retrain=False),
    "a tenth of the weights": SparsifyWeights(sparsity=0.9, retrain=False),
    "both": SparsifyEdges(0.5, joint=0.9, retrain=False),
}

if __name__ == "__main__":
    whole_models.main(__doc__ or "", "sparse_models", WAYS)
