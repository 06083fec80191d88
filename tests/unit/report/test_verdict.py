import pytest

from gnnexport.bundle.report_schema import (
    Budgets,
    Drop,
    Latency,
    MetricValue,
    ParityResult,
    Ratio,
    Report,
    Result,
    Speedup,
)
from gnnexport.errors import SpecError
from gnnexport.report.verdict import GRAVITY, gravest, judge

GOOD_PARITY = ParityResult(max_abs_error=1e-7, max_rel_error=1e-7, tolerance=1e-4, moved=0, near_ties=0)
BAD_PARITY = ParityResult(max_abs_error=1.0, max_rel_error=1.0, tolerance=1e-4, moved=9, near_ties=9)
RESULT = Result(
    metric=MetricValue(name="accuracy", split="test", value=0.8, n=1000),
    latency_ms=Latency(p50=1, p95=1, p99=1, runs=8),
)


def make(drop=0.003, against_baseline=3.0, against_exported=1.5, parity=GOOD_PARITY, **budgets):
    """A report with these figures; `None` is not measured."""
    return Report(
        budgets=Budgets(**budgets),
        result=RESULT if drop is not None else RESULT.model_copy(update={"metric": None}),
        drop=None if drop is None else Drop(value=drop, ci95=(drop - 0.004, drop + 0.004), deciding_n=5000),
        speedup=Speedup(
            against_baseline=against_baseline and Ratio(value=against_baseline, ci95=(2.9, 3.1)),
            against_exported=against_exported and Ratio(value=against_exported),
        ),
        parity=parity,
    )


SET = {"max_drop": "0.5pp", "max_drop_set": True, "min_speedup": "2", "min_speedup_set": True}


@pytest.mark.parametrize(
    ("figures", "budgets", "code", "verdict"),
    [
        ({}, {}, 0, "pass"),
        ({}, SET, 0, "pass"),
        ({"drop": 0.005}, SET, 0, "pass"),
        ({"drop": 0.006}, SET, 3, "fail"),
        ({"drop": 0.006}, {"max_drop": "0.5pp"}, 3, "fail"),
        ({"drop": -0.02}, SET, 0, "pass"),
        ({"against_baseline": 1.9}, SET, 4, "fail"),
        ({}, {"min_speedup": "2x-exported"}, 4, "fail"),
        ({"drop": 0.006, "against_baseline": 1.9}, SET, 3, "fail"),
        ({"drop": 0.006, "parity": BAD_PARITY}, SET, 5, "fail"),
        ({"drop": None}, SET, 7, "inconclusive"),
        ({"drop": None}, {"max_drop": "0.5pp"}, 0, "pass"),
        ({"drop": None}, {}, 0, "pass"),
        ({"against_baseline": None}, SET, 7, "inconclusive"),
        ({"against_baseline": None}, {}, 0, "pass"),
        ({"drop": None, "against_baseline": 1.0}, SET, 4, "fail"),
        ({"parity": None}, {}, 0, "pass"),
    ],
)
def test_exit_codes(figures, budgets, code, verdict):
    """The first code that applies counts; a budget nobody set never makes a verdict inconclusive."""
    judgement = judge(make(**figures, **budgets))
    assert (judgement.exit_code, judgement.verdict) == (code, verdict)


def test_reasons_name_figure_interval_and_budget():
    """A reason gives the figure, its interval, the budget, and the sample that would decide."""
    reasons = "\n".join(judge(make(**SET)).reasons)
    assert "accuracy drop 0.30 pp (95% CI -0.10 to 0.70 pp, n = 1000) is within the budget of 0.5pp" in reasons
    assert "by the point estimate; about 5,000 test nodes would decide" in reasons
    assert "speedup 3.00x (95% CI 2.90 to 3.10) against the original is within the budget of 2x" in reasons


def test_errors_are_judged_in_percent():
    """The drop of an error is relative, its budget is in percent, and graphs are called graphs."""
    metric = MetricValue(name="rmse", split="test", value=0.8, n=100, level="graph")
    report = make(drop=0.019, max_drop="2%").model_copy(update={"result": RESULT.model_copy(update={"metric": metric})})
    reasons = " ".join(judge(report).reasons)
    assert "rmse drop 1.90 % (95% CI 1.50 to 2.30 %, n = 100) is within the budget of 2%" in reasons
    assert "about 5,000 test graphs would decide" in reasons
    with pytest.raises(SpecError, match="judged in %"):
        judge(report, Budgets(max_drop="0.5pp"))


def test_a_clear_drop_needs_no_sample_size():
    """Where the interval is clear of the budget nothing is left to decide."""
    assert "would decide" not in judge(make(drop=0.05, **SET)).reasons[1]


def test_what_was_not_measured_is_said():
    """Nothing that is missing stays unsaid."""
    reasons = judge(make(drop=None, against_baseline=None, parity=None, **SET)).reasons
    assert reasons == (
        "numerical parity not measured",
        "accuracy not measured; the budget of 0.5pp cannot be decided",
        "speedup against the original not measured; the budget of 2x cannot be decided",
    )


def test_the_verdict_goes_into_the_report():
    """The report carries its verdict and reasons."""
    report = make(drop=0.02, **SET)
    judged = judge(report).write_into(report)
    assert judged.verdict == "fail"
    assert len(judged.reasons) == 3


def test_a_budget_that_does_not_suit_the_metric():
    """A relative budget cannot judge a share."""
    with pytest.raises(SpecError, match="judged in pp"):
        judge(make(max_drop="2%"))


def test_other_budgets_may_be_given():
    """A gate may judge by its own budgets."""
    assert judge(make(**SET), Budgets(max_drop="0.1pp", max_drop_set=True)).exit_code == 3


@pytest.mark.parametrize(
    ("moved", "words"),
    [(None, "tolerance 0.0001"), (0, "no prediction moved"), (1, "1 prediction moved, all of them near-ties")],
)
def test_moved_predictions_are_told(moved, words):
    """Predictions that moved within the tolerance are counted, and fail nothing."""
    judgement = judge(make(parity=GOOD_PARITY.model_copy(update={"moved": moved, "near_ties": 4})))
    assert judgement.exit_code == 0
    assert judgement.reasons[0].endswith(words)
    assert judge(make(parity=BAD_PARITY)).reasons[0].endswith("9 predictions moved")


def test_rows_on_a_border_are_told():
    """Rows of a quantised model that differ as borders between levels explain are counted, and fail nothing."""
    judgement = judge(make(parity=GOOD_PARITY.model_copy(update={"flipped": 3})))
    assert judgement.exit_code == 0
    assert judgement.reasons[0].endswith("; 3 rows differ by more, as levels on a border explain")


def test_the_gravest_code_counts():
    """Wrong numbers come before accuracy, speed and doubt; without any code all is well."""
    for position, code in enumerate(GRAVITY):
        assert gravest(GRAVITY[position:][::-1]) == code
    assert GRAVITY == (5, 3, 4, 7, 0)
    assert gravest([]) == 0


WHY = "the engine needs an NVIDIA GPU"


@pytest.mark.parametrize(
    ("budgets", "code"),
    [
        ({}, 0),
        ({"max_drop": "0.5pp"}, 0),
        ({"min_speedup": "2"}, 0),
        ({"min_speedup": "2", "min_speedup_set": True}, 7),
        ({"min_speedup": "2x-exported", "min_speedup_set": True}, 7),
    ],
)
def test_an_engine_that_cannot_run_here(budgets, code):
    """Only a budget of speed that the user set is inconclusive; the reason always says why nothing was timed."""
    report = make(against_baseline=None, against_exported=None, **budgets)
    report = report.model_copy(
        update={"engine_not_run": WHY, "result": report.result.model_copy(update={"latency_ms": None})}
    )
    judgement = judge(report)
    assert judgement.exit_code == code
    assert f"not measured: {WHY}" in judgement.reasons[-1]


def test_accuracy_is_judged_before_a_speed_that_was_not_measured():
    """A missed accuracy budget fails, whatever could not be timed."""
    report = make(drop=0.006, against_baseline=None, **SET).model_copy(update={"engine_not_run": WHY})
    assert judge(report).exit_code == 3
