"""The test split as a bundle keeps it: what is run, and what the original model answers there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gnnexport.bundle.evaluation import EvalData
from gnnexport.bundle.stages import NODE_IDS
from gnnexport.measure.metrics import predictions
from gnnexport.pipeline.source import Source
from gnnexport.program.data import labelled_rows


def judged_split(source: Source, names: Sequence[str]) -> EvalData | None:
    """Return the test split with labels and inputs; `None` when accuracy cannot be measured.

    In `graphs` mode only the graphs of the test are kept of a set. Pairs may join graphs, so a set with pairs stays
    whole, as does the one graph of `full` mode: `rows` then count over all of it. In `batched` mode the request asks
    about the nodes of the test.

    Args:
        source: with what the original model gives on the data.
        names: inputs of a request.
    """
    data, task = source.data, source.task
    if not source.labelled or data.y is None or "test" not in data.masks:
        return None
    rows = torch.nonzero(data.masks["test"] & labelled_rows(data.y)).flatten()
    baseline = predictions(task.metric, source.logits[rows].numpy())
    chosen, graphs, kept = data, None, rows
    if source.mode == "graphs" and data.num_graphs is not None and data.level != "pair":
        graphs = rows if data.level == "graph" else data.inputs["batch"][rows].unique()
        chosen = data.select(graphs)
        assert chosen.y is not None
        kept = torch.nonzero(chosen.masks["test"] & labelled_rows(chosen.y)).flatten()
    inputs = {name: chosen.inputs[name].numpy() for name in names}
    if source.mode == "batched":
        inputs, kept = {NODE_IDS: rows.numpy()}, torch.arange(len(rows))
    return EvalData(
        metric=task.metric,
        rows=kept.numpy(),
        baseline=baseline,
        y=data.y[rows].numpy(),
        inputs=inputs,
        graphs=None if graphs is None else graphs.numpy(),
        level=data.level,
        target=data.target,
    )
