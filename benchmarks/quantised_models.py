"""Time whole models of few bits against the same models in float32, on the same kernels.

    python -m benchmarks.quantised_models

GraphSAGE and GCN of three layers on power-law graphs of 2.3 and 20 million edges, untrained: steps are calibrated,
which decides numbers but not arithmetic. Contenders of one table take turns in blocks. Memory is that of a process that
runs nothing else.
"""

from __future__ import annotations

from benchmarks import whole_models
from gnnexport.passes.a2q import A2Q
from gnnexport.passes.cast import Cast
from gnnexport.passes.contract import Pass
from gnnexport.passes.quantize import Quantize

WAYS: dict[str, Pass] = {
    "cast{to=bf16}": Cast(to="bf16"),
    "quantize{bits=8}": Quantize(bits=8),
    "a2q{bits=2,epochs=0}": A2Q(bits=2, epochs=0, inputs="rows"),
}

if __name__ == "__main__":
    whole_models.main(__doc__ or "", "quantised_models", WAYS)
