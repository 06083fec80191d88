"""Measure a metric through a runner, and its drop against the original model on the same nodes."""

from __future__ import annotations

import numpy as np

from gnnexport.bundle.evaluation import EvalData
from gnnexport.bundle.report_schema import Drop, MetricValue
from gnnexport.errors import DataError
from gnnexport.measure.intervals import deciding_sample, paired_drop
from gnnexport.measure.metrics import evaluate, predict
from gnnexport.runtime.runner import Runner


def measure_accuracy(runner: Runner, data: EvalData, *, budget: float = 0.0) -> tuple[MetricValue, Drop]:
    """Run the bundle on the test features and judge its first output.

    Args:
        runner: the loaded bundle.
        data: the test split, with labels, and with features unless they are baked in.
        budget: the drop that `deciding_n` is to decide.

    Raises:
        DataError: labels are lacking, or outside the model's classes.
    """
    if data.y is None:
        raise DataError.at("test data", "has no labels", "Give it with --data X.npz")
    feeds = {} if data.x is None else {tensor.name: data.x for tensor in runner.inputs if tensor.name == "x"}
    scores = runner(feeds)[runner.outputs[0].name][data.rows]
    value = MetricValue(name=data.metric, split=data.split, value=evaluate(data.metric, data.y, scores), n=len(data.y))
    before, after = data.baseline == data.y, np.asarray(predict(scores) == data.y)
    interval = paired_drop(before, after)
    deciding = deciding_sample(before, after, budget)
    return value, Drop(value=interval.value, ci95=interval.ci95, method=interval.method, deciding_n=deciding)
