import numpy as np
import pytest

from gnnexport.bundle.manifest import Graph, Manifest, SourceModel, Target, Tensor
from gnnexport.errors import UsageError
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.request import _widened
from gnnexport.runtime.runner import Runner

X = Tensor(name="x", dtype="float32", shape=("num_nodes", 3), role="node_features")
EDGES = Tensor(name="edge_index", dtype="int64", shape=(2, "num_edges"), role="edge_index")
WEIGHT = Tensor(name="edge_weight", dtype="float32", shape=("num_edges",), role="edge_weight")
BATCH = Tensor(name="batch", dtype="int64", shape=("num_nodes",), role="graph_ids")
COUNT = Tensor(name="num_graphs", dtype="int64", shape=(), role="num_graphs")
PAIRS = Tensor(name="edge_label_index", dtype="int64", shape=(2, "num_pairs"), role="label_edges")
OUTPUT = Tensor(name="logits", dtype="float32", shape=("num_graphs", 2))
GRAPHS = (X, EDGES, WEIGHT, BATCH, COUNT)


class Echo(Backend):
    """Gives back what it was fed."""

    name = "echo"
    outputs = (OUTPUT,)

    def __init__(self, inputs, nameless=False):
        """Take inputs, with sizes that have lost their names if so wanted, as in some engines."""
        shapes = {t.name: tuple("?" if nameless and isinstance(s, str) else s for s in t.shape) for t in inputs}
        self.inputs = tuple(Tensor(name=t.name, dtype=t.dtype, shape=shapes[t.name]) for t in inputs)

    def run(self, feeds):
        """Return the feeds."""
        return dict(feeds)

    def close(self):
        """Do nothing."""


def runner(inputs=GRAPHS, *, mode="graphs", graph=None, nameless=False):
    """A runner of a model that reads these inputs."""
    manifest = Manifest(
        model=SourceModel(name="m"), mode=mode, inputs=inputs, outputs=(OUTPUT,), graph=graph,
        target=Target(spec="ort", runtime="ort", model_file="m"),
    )  # fmt: skip
    return Runner(Echo(inputs, nameless), where="m.bundle", manifest=manifest)


def request(**changes):
    """Two graphs of two and three nodes."""
    values = {
        "x": np.ones((5, 3), np.float32),
        "edge_index": np.array([[0, 1, 2, 4], [1, 0, 3, 2]]),
        "edge_weight": np.ones(4, np.float32),
        "batch": np.array([0, 0, 1, 1, 1]),
        "num_graphs": np.array(2),
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize("nameless", [False, True])
def test_a_request_reaches_the_engine_as_it_is(nameless):
    """What fits is passed on unchanged, a number of graphs as int64 of no dimension."""
    given = request()
    seen = runner(nameless=nameless)(given)
    assert set(seen) == set(given)
    for name, value in given.items():
        np.testing.assert_array_equal(seen[name], value)
        assert (seen[name].dtype, seen[name].shape) == (value.dtype, value.shape)
    assert [tensor.shape for tensor in runner(nameless=nameless).inputs] == [tensor.shape for tensor in GRAPHS]


@pytest.mark.parametrize("count", [3, np.int32(3), np.array([3]), np.array(3)])
def test_the_number_of_graphs_in_any_whole_form(count):
    """A plain number will do, and may count empty graphs at the end."""
    seen = runner()(request(num_graphs=count))["num_graphs"]
    assert (seen.dtype, seen.shape, int(seen)) == (np.int64, (), 3)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_indices_of_fewer_bits(dtype):
    """Whole numbers of fewer bits reach the engine as it wants them, and are checked as any others."""
    given = request()
    narrow = {name: given[name].astype(dtype) for name in ("edge_index", "batch")}
    seen = runner()({**given, **narrow})
    for name in narrow:
        np.testing.assert_array_equal(seen[name], given[name])
        assert seen[name].dtype == np.int64
    with pytest.raises(UsageError, match="holds 9, which is none of the 5 nodes"):
        runner()({**given, "edge_index": np.full((2, 4), 9, dtype)})


@pytest.mark.parametrize("left_out", [("batch", "num_graphs"), ("batch",)])
def test_a_single_graph_needs_no_ids(left_out):
    """Of one graph, ids are zeros and the number is one."""
    given = request(batch=np.zeros(5, np.int64), num_graphs=1)
    for name in left_out:
        del given[name]
    seen = runner()(given)
    np.testing.assert_array_equal(seen["batch"], np.zeros(5))
    assert seen["batch"].dtype == np.int64
    assert int(seen["num_graphs"]) == 1


def test_a_model_that_reads_no_ids():
    """What the model does not read is not filled in."""
    inputs = (X, EDGES)
    given = request(edge_weight=None, batch=None, num_graphs=None)
    assert set(runner(inputs)(given)) == {"x", "edge_index"}


def test_no_edges_and_one_node():
    """The smallest graph is a graph."""
    changes = {
        "x": np.ones((1, 3), np.float32), "edge_index": np.zeros((2, 0), np.int64),
        "edge_weight": np.zeros(0, np.float32), "batch": None, "num_graphs": None,
    }  # fmt: skip
    assert int(runner()(request(**changes))["num_graphs"]) == 1


@pytest.mark.parametrize("nameless", [False, True])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": None}, r"'batch': is missing. Give a int64 array \[num_nodes\]; only a single graph can do without"),
        ({"num_graphs": None}, "'num_graphs': is missing. Give the number of graphs: a last one may have no node"),
        ({"batch": np.zeros(4, np.int64)}, "'batch': has num_nodes = 4 where 'x' has 5"),
        ({"edge_weight": np.ones(3, np.float32)}, "'edge_weight': has num_edges = 3 where 'edge_index' has 4"),
        ({"edge_index": np.array([[0, 5], [1, 0]]), "edge_weight": np.ones(2, np.float32)},
         "'edge_index': holds 5, which is none of the 5 nodes. Number them from 0 to 4"),
        ({"edge_index": np.array([[0, -1, 2, 4], [1, 0, 3, 2]])}, "'edge_index': holds -1, which is none"),
        ({"edge_index": np.zeros((2, 4))}, r"has dtype float64. Give edge_index.astype\('int64'\)"),
        ({"edge_index": np.zeros((2, 4), np.uint64)}, r"has dtype uint64. Give edge_index.astype\('int64'\)"),
        ({"edge_index": np.zeros((2, 4))}, "has dtype float64"),
        ({"edge_index": np.zeros((4, 2), np.int64)}, r"has shape \[4, 2\]. Give \[2, num_edges\]"),
        ({"batch": np.array([0, 1, 0, 1, 1])}, "'batch': is not ascending"),
        ({"batch": np.array([0, 0, 1, 1, 2])}, "'batch': holds 2, which is none of the 2 graphs"),
        ({"batch": np.array([-1, 0, 1, 1, 1])}, "'batch': holds -1"),
        ({"num_graphs": 0}, "'num_graphs': is 0. Give the number of graphs, 1 or more"),
        ({"num_graphs": -2}, "'num_graphs': is -2"),
        ({"num_graphs": 2.0}, "'num_graphs': is a float. Give a numpy array"),
        ({"num_graphs": True}, "'num_graphs': is a bool"),
        ({"num_graphs": np.array([1, 1])}, r"'num_graphs': has shape \[2\]. Give \[\]"),
        ({"x": np.ones((0, 3), np.float32), "edge_index": np.zeros((2, 0), np.int64),
          "edge_weight": np.zeros(0, np.float32), "batch": np.zeros(0, np.int64)}, "'x': holds no node"),
        ({"x": np.ones((5, 4), np.float32)}, r"'x': has shape \[5, 4\]. Give \[num_nodes, 3\]"),
        ({"x": [[1.0, 2.0, 3.0]]}, "'x': is a list"),
        ({"pos": np.ones(3)}, "unknown input 'pos'"),
    ],
)  # fmt: skip
def test_wrong_requests(changes, words, nameless):
    """A request that cannot be answered is refused, whatever the engine would have made of it."""
    with pytest.raises(UsageError, match=words):
        runner(nameless=nameless)(request(**changes))


def test_all_wrong_values_at_once():
    """Every input with a wrong number in it is named."""
    wrong = request(edge_index=np.array([[0, 9, 2, 4], [1, 0, 3, 2]]), num_graphs=1)
    with pytest.raises(UsageError) as caught:
        runner()(wrong)
    assert len(caught.value.problems) == 2


def test_pairs_of_a_baked_graph():
    """Pairs must be nodes of the graph in the bundle, which the request need not show."""
    one = runner((PAIRS,), mode="full", graph=Graph(nodes=4, edges=2))
    one({"edge_label_index": np.array([[0, 3], [1, 2]])})
    one({"edge_label_index": np.zeros((2, 0), np.int64)})
    for pairs in ([[0, 4], [1, 2]], [[0, -1], [1, 2]]):
        with pytest.raises(UsageError, match="which is none of the 4 nodes"):
            one({"edge_label_index": np.array(pairs)})


def test_full_mode_fills_in_nothing():
    """Where the graph is baked in, an input that the model reads is always needed."""
    ids = Tensor(name="batch", dtype="int64", shape=(5,), role="graph_ids")
    with pytest.raises(UsageError, match="'batch': is missing"):
        runner((ids,), mode="full", graph=Graph(nodes=5, edges=2))({})


def test_without_a_manifest_shapes_are_all():
    """A backend on its own is held to the shapes it states."""
    bare = Runner(Echo((X, EDGES)))
    bare({"x": np.ones((2, 3), np.float32), "edge_index": np.array([[0], [1]])})
    with pytest.raises(UsageError, match="is missing"):
        bare({"x": np.ones((2, 3), np.float32)})


def test_types_that_the_model_does_not_know():
    """A type of edges without weights is refused; where the number of types is not known, the engine has to say so."""
    types = Tensor(name="edge_type", dtype="int64", shape=("num_edges",), role="edge_type", types=3)
    given = request(edge_weight=None, edge_type=np.array([0, 2, 1, 3]))
    with pytest.raises(UsageError, match="input 'edge_type': holds 3, which is none of the 3 types"):
        runner((X, EDGES, types, BATCH, COUNT))(given)
    unlimited = types.model_copy(update={"types": None})
    assert runner((X, EDGES, unlimited, BATCH, COUNT))(given)["edge_type"][3] == 3


def test_edges_between_two_kinds_of_nodes():
    """Each row counts the nodes of its own kind, of which there may be none."""
    papers = Tensor(name="x__paper", dtype="float32", shape=("num_nodes__paper", 3), role="node_features")
    authors = Tensor(name="x__author", dtype="float32", shape=("num_nodes__author", 2), role="node_features")
    ends = ("num_nodes__author", "num_nodes__paper")
    edges = Tensor(name="edges", dtype="int64", shape=(2, "num_edges__by"), role="edge_index", ends=ends)
    given = {"x__paper": np.ones((2, 3), np.float32), "x__author": np.ones((4, 2), np.float32)}
    hetero = runner((papers, authors, edges))
    assert hetero({**given, "edges": np.array([[3, 0], [1, 0]])})["edges"].shape == (2, 2)
    assert hetero.request_sizes({**given, "edges": np.array([[3], [1]])}) == {
        "num_nodes__paper": 2, "num_nodes__author": 4, "num_edges__by": 1
    }  # fmt: skip
    with pytest.raises(UsageError, match="input 'edges': holds 4, which is none of the 4 author nodes"):
        hetero({**given, "edges": np.array([[4], [1]])})
    with pytest.raises(UsageError, match="input 'edges': holds 2, which is none of the 2 paper nodes"):
        hetero({**given, "edges": np.array([[3], [2]])})
    empty = {**given, "x__author": np.ones((0, 2), np.float32), "edges": np.zeros((2, 0), np.int64)}
    assert len(hetero(empty)["x__author"]) == 0


def test_whole_numbers_of_the_type_declared_are_not_copied():
    """A request of many edges costs no copy of them; narrower ones are widened."""
    edges = np.zeros((2, 3), np.int64)
    assert _widened(edges, EDGES) is edges
    assert _widened(edges.astype(np.int32), EDGES).dtype == np.int64
