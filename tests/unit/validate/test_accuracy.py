import numpy as np
import pytest

from gnnexport.bundle.evaluation import EvalData
from gnnexport.bundle.manifest import Tensor
from gnnexport.bundle.report_schema import Budgets, Report, Result, parse_report
from gnnexport.errors import EXIT_ACCURACY, DataError
from gnnexport.measure.metrics import evaluate, predictions
from gnnexport.report.text import to_text
from gnnexport.report.verdict import judge
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.runner import Runner
from gnnexport.validate.accuracy import measure_accuracy, original_metric

N = 50
RNG = np.random.default_rng(0)
ROWS = np.arange(10, N)


class Doubled(Backend):
    """Answers with twice its input."""

    name = "doubled"
    inputs = (Tensor(name="x", dtype="float32", shape=("num_nodes", 2)),)
    outputs = (Tensor(name="out", dtype="float32", shape=("num_nodes", 2)),)

    def __init__(self, columns=None):
        """Keep all columns, or one as [n, 1] or [n]."""
        self.columns = columns

    def run(self, feeds):
        """Double."""
        answer = feeds["x"] * 2
        return {"out": answer if self.columns is None else answer[:, : self.columns] if self.columns else answer[:, 0]}

    def close(self):
        """Do nothing."""


def data(metric, y, baseline, x=None, **changes):
    """A split of the last 40 of 50 rows."""
    values = RNG.normal(size=(N, 2)) if x is None else x
    inputs = {"x": values.astype(np.float32), "batch": np.zeros(N, np.int64)}
    return EvalData(metric, ROWS, baseline, y=y, inputs=inputs, **changes)


@pytest.mark.parametrize("columns", [0, 1])
@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_errors_of_one_column(metric, columns):
    """Outputs [n] and [n, 1] are judged alike, row by row, and the drop is relative."""
    x = RNG.normal(size=(N, 2)).astype(np.float32)
    y = (2 * x[ROWS, 0] + RNG.normal(size=len(ROWS)) * 0.1).astype(np.float32)
    before = (y + 0.1).astype(np.float32)
    value, drop = measure_accuracy(Runner(Doubled(columns)), data(metric, y, before, x, level="graph"), budget=0.02)
    expected = evaluate(metric, y, 2 * x[ROWS, 0])
    assert value.value == pytest.approx(expected)
    assert drop.value == pytest.approx(expected / 0.1 - 1, rel=1e-4)
    assert drop.ci95[0] < drop.value < drop.ci95[1]
    assert (value.n, value.level, value.split) == (len(ROWS), "graph", "test")
    assert "bootstrap" in drop.method
    assert drop.deciding_n > 0


@pytest.mark.parametrize("metric", ["accuracy", "f1-macro", "roc-auc", "average-precision", "hits@5"])
def test_shares(metric):
    """An artefact that answers as the original did has dropped by nothing, whatever the metric."""
    x = RNG.normal(size=(N, 2)).astype(np.float32)
    y = RNG.integers(0, 2, len(ROWS))
    value, drop = measure_accuracy(Runner(Doubled()), data(metric, y, predictions(metric, 2 * x[ROWS]), x))
    assert value.value == evaluate(metric, y, 2 * x[ROWS])
    assert drop.value == 0
    assert value.level == "node"


def test_several_labels():
    """Labels of two columns are judged against two logits."""
    x = RNG.normal(size=(N, 2)).astype(np.float32)
    y = (x[ROWS] > 0.3).astype(np.float32)
    value, drop = measure_accuracy(Runner(Doubled()), data("f1-multilabel", y, 2 * x[ROWS] - 0.6, x))
    assert value.value < 1
    assert drop.value == pytest.approx(1 - value.value)


@pytest.mark.parametrize("changes", [{"inputs": None}, {"y": None}])
def test_data_that_is_not_there(changes):
    """Without labels or inputs there is nothing to judge, and the message says how to give them."""
    whole = data("accuracy", np.zeros(len(ROWS), int), np.zeros(len(ROWS), int))
    with pytest.raises(DataError, match=r"--data X\.npz"):
        measure_accuracy(Runner(Doubled()), EvalData(**{**vars(whole), **changes}))


def test_answers_without_a_value():
    """A result that answers NaN has neither an error nor a drop, and misses its budget."""
    x = np.full((N, 2), np.nan, np.float32)
    y = np.ones(len(ROWS), np.float32)
    value, drop = measure_accuracy(Runner(Doubled(1)), data("mae", y, y, x))
    assert (value.value, value.n, drop.value, drop.ci95) == (None, len(ROWS), None, None)
    report = Report(budgets=Budgets(max_drop="2%"), result=Result(metric=value), drop=drop)
    assert parse_report(report.to_json(), "report") == report
    judgement = judge(report)
    assert judgement.exit_code == EXIT_ACCURACY
    assert "mae has no value, as the result answers NaN or infinity: misses the budget of 2%" in judgement.reasons
    assert "none: NaN" in to_text(report)
    assert judge(report, Budgets()).exit_code == 0


def test_an_original_without_a_value():
    """Where the original itself answers NaN nothing can be compared, and the message says whose answers they are."""
    y = np.ones(len(ROWS), np.float32)
    with pytest.raises(DataError, match="the original model answers NaN or infinity, so mae has no value"):
        measure_accuracy(Runner(Doubled(1)), data("mae", y, np.full(len(ROWS), np.nan)))


def test_the_original_is_judged_on_the_same_rows():
    """What the original answered is judged from the very rows and labels that the result is judged on."""
    x = RNG.normal(size=(N, 2)).astype(np.float32)
    y = RNG.integers(0, 2, len(ROWS))
    judged = data("accuracy", y, predictions("accuracy", 2 * x[ROWS]), x)
    assert original_metric(judged) == measure_accuracy(Runner(Doubled()), judged)[0]
