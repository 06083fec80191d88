"""Write out products that broadcast one matrix over a batch, for engines that compute them wrongly."""

from __future__ import annotations

import onnx_ir as ir

from gnnexport.targets.onnx.open_tape import OpenTape, numbers
from gnnexport.targets.onnx.tape import Constants


def repeat_for_batches(graph: ir.Graph) -> int:
    """Repeat the left operand of `MatMul` where it is one matrix and the right is several; returns how often.

    Where the left has an open number of rows and the right holds weights, OpenVINO 2026.4 takes the product for a
    linear layer and gives no rows, or an error. Sizes that are known it computes rightly.
    """
    constants = Constants(graph)
    repeated = 0
    for node in list(graph):
        left = node.inputs[0] if node.op_type == "MatMul" else None
        if left is None or left.shape is None or node.inputs[1] is None or node.inputs[1].shape is None:
            continue
        batch = list(node.inputs[1].shape)[:-2]
        if not _is_one_open_matrix(left.shape, len(batch)) or set(batch) <= {1}:
            continue
        times = [size for size in batch if isinstance(size, int)]
        if len(times) < len(batch):
            continue
        tape = OpenTape(constants, f"{node.name}_repeated")
        missing = len(batch) + 2 - len(left.shape)
        lifted = tape.add("Unsqueeze", left, numbers(*range(missing))) if missing else left
        whole = tape.add("Tile", lifted, numbers(*times, 1, 1))
        whole.shape = ir.Shape([*times, *list(left.shape)[-2:]])
        node.replace_input_with(0, whole)
        graph.insert_before(node, tape.nodes)
        repeated += 1
    return repeated


def _is_one_open_matrix(shape: ir.Shape, batch_rank: int) -> bool:
    sizes = list(shape)
    return 2 <= len(sizes) <= batch_rank + 2 and set(sizes[:-2]) <= {1} and not isinstance(sizes[-2], int)
