"""Measure a metric through a runner, and its drop against the original model on the same rows."""

from __future__ import annotations

import math

from gnnexport.bundle.evaluation import EvalData
from gnnexport.bundle.report_schema import Drop, MetricValue
from gnnexport.errors import DataError
from gnnexport.measure.drops import compare_predictions
from gnnexport.measure.metrics import evaluate, evaluate_predictions, predictions
from gnnexport.runtime.runner import Runner


def original_metric(data: EvalData) -> MetricValue:
    """Judge what the original model answered on the rows of the test.

    Raises:
        DataError: labels are lacking or do not suit the metric, or the answers have no error.
    """
    if data.y is None:
        raise DataError.at("test data", "has no labels", "Give it with --data X.npz")
    value = evaluate_predictions(data.metric, data.y, data.baseline)
    if not math.isfinite(value):
        what = f"the original model answers NaN or infinity, so {data.metric} has no value"
        raise DataError.at("test data", what, "Look for what makes it do so: features out of range, or weights")
    return _value(data, value)


def measure_accuracy(runner: Runner, data: EvalData, *, budget: float = 0.0) -> tuple[MetricValue, Drop]:
    """Run the bundle on the test data and judge its first output.

    Answers of NaN or infinity, of which no error can be told, have neither a value nor a drop: null in both.

    Args:
        runner: the loaded bundle.
        data: the test split, with labels and with the inputs that are not baked in.
        budget: the drop that `deciding_n` is to decide.

    Raises:
        DataError: labels are lacking or do not suit the metric, or the original's answers have no error.
    """
    if data.y is None or data.inputs is None:
        raise DataError.at("test data", "has no labels", "Give it with --data X.npz")
    read = {tensor.name for tensor in runner.inputs}
    feeds = {name: array for name, array in data.inputs.items() if name in read}
    scores = runner(feeds)[runner.outputs[0].name][data.rows]
    original_metric(data)
    value = evaluate(data.metric, data.y, scores)
    found = compare_predictions(data.metric, data.y, data.baseline, predictions(data.metric, scores), budget=budget)
    if not (math.isfinite(value) and math.isfinite(found.interval.value)):
        return _value(data, None), Drop(value=None)
    drop = Drop(
        value=found.interval.value,
        ci95=found.interval.ci95,
        method=found.interval.method,
        deciding_n=found.deciding,
    )
    return _value(data, value), drop


def _value(data: EvalData, value: float | None) -> MetricValue:
    return MetricValue(name=data.metric, split=data.split, value=value, n=len(data.baseline), level=data.level)
