from __future__ import annotations

import re

from gnnexport.program.text import to_text
from tests.small_models import captured, split


def test_captured_program_reads_as_one_body() -> None:
    """The text names inputs, shapes, ops and the modules they came from."""
    text = to_text(captured("GCN"))
    assert text.startswith("program GCN(x: float32 [num_nodes, 6], edge_index: int64 [2, num_edges]) -> logits\nbody:")
    assert "convs.0.lin (Linear)" in text
    assert "prepare:" not in text


def test_split_program_reads_as_two_parts() -> None:
    """What belongs to the graph stands apart from the inference."""
    text = to_text(split("GCN"))
    prepare, body = text.split("\nbody:\n")
    assert "gnn.csr" in prepare
    call = r"gnn\.aggregate\(%\w+, %rowptr_0, %col_0, %weight_0, 'sum'\)"
    assert re.search(rf"%aggregate\w*: float32 \[num_nodes, 16\] = {call}", body)
    assert "%rowptr_0: int64 [num_nodes+1] = input" in body
    assert body.splitlines()[-1].startswith("  return %")


def test_text_leaves_the_program_alone() -> None:
    """Writing the text twice gives the same text."""
    assert to_text(split("GAT")) == to_text(split("GAT"))
