import pytest

from gnnexport.bundle.report_schema import (
    Bits,
    Candidate,
    DataInfo,
    EdgeSet,
    Latency,
    Lowering,
    Measurement,
    MetricValue,
    QuantisedOperand,
    Report,
    Result,
    Sizes,
    SparseWeight,
    Sparsity,
    Step,
)
from gnnexport.report.markdown import to_markdown
from gnnexport.report.quantities import NOT_MEASURED, throughput
from gnnexport.report.tables import tables
from gnnexport.report.text import to_text

REPORT = Report(
    verdict="pass",
    reasons=("numbers agree",),
    model={"name": "a|b<script>"},
    data=DataInfo(name="cora", nodes=2708, edges=10556),
    environment={"processor": "Fast CPU", "cores": 2, "threads": 2, "versions": {"numpy": "2"}},
    target="ort{threads=2}",
    baseline=Measurement(
        metric=MetricValue(name="accuracy", split="test", value=0.8123, n=1000),
        parameters=184_391,
        latency_ms=Latency(p50=1234.5, p95=2, p99=3, runs=24),
        runner="pytorch-csr",
        measured_on="Z80",
    ),
    result=Result(
        parameters=92_000, size_bytes=2_345_678, nodes_per_second=1_234_567, sizes=Sizes(weights_bytes=2_000_000)
    ),
    steps=(Step(name="prune-channels{keep=0.5}", kept=True, seconds=3.21, metric=0.8, notes=("128 to 64",)),),
    lowering=(Lowering(op="aggregate_0", chosen="ell", candidates=(Candidate(name="ell", latency_ms=0.5),)),),
    notes=("validation is a quarter of train",),
)


@pytest.mark.parametrize(
    "words",
    [
        "81.23 %",
        "184,391",
        "1,234 ms",
        "pytorch-csr",
        "Z80",
        "2.35 MB",
        "1.23 M nodes/s",
        "not measured",
        "prune-channels{keep=0.5}",
        "ell",
    ],
)
@pytest.mark.parametrize("render", [to_markdown, to_text])
def test_every_figure_is_shown(render, words):
    """Both forms show the same figures."""
    assert words in render(REPORT)


def test_markdown_names_cannot_break_out():
    """A name from a file stays inside its cell and is no tag."""
    text = to_markdown(REPORT)
    assert "a\\|b&lt;script>" in text
    assert "<script" not in text


def test_text_does_not_read_markup():
    """Brackets in a name are text, not markup."""
    report = REPORT.model_copy(update={"model": {"name": "[bold]model[/bold]"}})
    assert "[bold]model[/bold]" in to_text(report)


def test_tables_are_well_formed():
    """Every row of a table has as many cells as its head."""
    for table in tables(REPORT):
        assert {len(row) for row in table.rows} == {len(table.columns)}


@pytest.mark.parametrize("render", [to_markdown, to_text])
def test_sets_of_graphs_and_errors(render):
    """A set is told by its graphs, the request that was timed by its sizes, and an error is no percentage."""
    error = MetricValue(name="mae", split="test", value=0.51234, n=19, level="graph")
    report = REPORT.model_copy(
        update={
            "data": DataInfo(
                name="zinc", nodes=3371, edges=7442, graphs=188, pairs=12,
                request={"num_edges": 2500, "num_graphs": 64, "num_nodes": 1},
            ),
            "baseline": Measurement(metric=error),
        }
    )  # fmt: skip
    text = render(report)
    assert "zinc: 188 graphs, 3,371 nodes, 7,442 edges, 12 pairs" in text
    assert "request timed: 64 graphs, 1 node, 2,500 edges" in text
    assert "mae, lower is better" in text
    assert "0.5123" in text
    assert "51.2" not in text


@pytest.mark.parametrize("render", [to_markdown, to_text])
def test_bits_are_told_apart(render):
    """What is stored, executed and only simulated stands side by side, with both ways to count a ratio."""
    operands = (
        QuantisedOperand(
            name="relu", kind="input", per="node", count=43_328, bits=1.7, stored=1.9, executed=8,
            arithmetic="u8 x s8", size_bytes=21_500,
        ),
    )  # fmt: skip
    bits = Bits(average_paper=1.7, ratio_paper=18.82, stored=1.9, executed=8, simulated=4.0, feature_bytes=21_500,
                ratio_bytes=8.06, operands=operands)  # fmt: skip
    text = render(REPORT.model_copy(update={"result": REPORT.result.model_copy(update={"bits": bits})}))
    for word in ("1.70", "18.82", "1.90", "8.00", "8.06", "21.5 kB", "4.00", "43,328", "relu"):
        assert word in text
    assert "Bits" not in render(REPORT)


@pytest.mark.parametrize("render", [to_markdown, to_text])
def test_sparsity_is_told_apart(render):
    """What is stored as zero and what is executed as zero stand side by side, with bytes, layers and matrices."""
    weight = {"numbers": 1000, "zeros": 900, "dense_bytes": 4000, "stored_bytes": 512}
    sparsity = Sparsity(
        edges=0.4217, weights_stored=0.9, weights_executed=0.45, dense_bytes=8000, stored_bytes=1024,
        layers=(EdgeSet(name="conv1", kept=750, total=1000), EdgeSet(name="conv2", kept=0, total=0)),
        weights=(SparseWeight(name="w1", skipped=900, layout="blocks", **weight), SparseWeight(name="w2", **weight),
                 SparseWeight(name="w3", skipped=None, layout="2:4", **weight)),
    )  # fmt: skip
    text = render(REPORT.model_copy(update={"result": REPORT.result.model_copy(update={"sparsity": sparsity})}))
    for word in ("42.17 %", "90.00 %", "45.00 %", "1.02 kB", "8 kB", "conv1", "25.00 %", "blocks: 90.00 %"):
        assert word in text
    assert "stored, not executed" in text
    assert "up to the engine, which may: 2:4" in text
    unknown = sparsity.model_copy(update={"weights_executed": None})
    text = render(REPORT.model_copy(update={"result": REPORT.result.model_copy(update={"sparsity": unknown})}))
    assert "weights executed as zero" in text
    assert NOT_MEASURED in text
    assert "Sparsity" not in render(REPORT)


def test_an_empty_report_renders():
    """A report without measurements has no empty tables."""
    assert "Passes" not in to_markdown(Report())
    assert "inconclusive" in to_text(Report())


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "not measured"), (0.5, "0.5 nodes/s"), (45_600, "45.6 k nodes/s"), (7.5e9, "7.5 G nodes/s")],
)
def test_throughput_of_any_size(value, words):
    """Throughput is written with the unit that suits it."""
    assert throughput(value) == words
