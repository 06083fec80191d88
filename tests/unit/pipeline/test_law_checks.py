from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gnnexport import api
from gnnexport.bundle.golden import Laws, read_laws, write_golden
from gnnexport.bundle.reader import open_bundle
from gnnexport.frontends.sidecar import read_sidecar
from gnnexport.pipeline.golden_cases import golden_cases
from gnnexport.pipeline.law_checks import law_checks
from gnnexport.pipeline.run import simplify
from gnnexport.pipeline.source import Given, load_source
from tests.road import NODES, write_road

MODEL = """
import torch
from torch_geometric.nn import GCNConv
from torch_geometric.utils import scatter

class OfTheBatch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(6, 3)
        self.norm = torch.nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x, edge_index):
        return self.norm(self.conv(x, edge_index))

class ByPlace(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(6, 3)

    def forward(self, x, edge_index):
        place = torch.arange(edge_index.size(1)).float()
        messages = self.first(x)[edge_index[0]] * place[:, None]
        return scatter(messages, edge_index[1], 0, x.size(0), "sum")

class Links(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = GCNConv(6, 3)

    def forward(self, x, edge_index, edge_label_index):
        h = self.conv(x, edge_index)
        return (h[edge_label_index[0]] * h[edge_label_index[1]]).sum(-1)

class LinksInTurn(Links):
    def forward(self, x, edge_index, edge_label_index):
        answer = super().forward(x, edge_index, edge_label_index)
        return answer + 0.1 * answer.cumsum(0)
"""


def laws_of(folder: Path, name: str, mode: str = "graphs", without: str = "") -> Laws:
    """Find the laws of a class of `MODEL`, or of the road's model where the name is empty; one case may be left out."""
    builder = None
    model = write_road(folder)
    if name:
        (folder / "made.py").write_text(MODEL)
        scope: dict[str, type[torch.nn.Module]] = {}
        exec(MODEL, scope)
        torch.manual_seed(0)
        torch.save(scope[name]().state_dict(), model)
        builder = f"{folder / 'made.py'}:{name}"
    if name.startswith("Links"):
        arrays = dict(np.load(folder / "data.npz"))
        pairs = np.random.default_rng(0).integers(0, NODES, (2, 9))
        np.savez(folder / "data.npz", x=arrays["x"], edge_index=arrays["edge_index"], edge_label_index=pairs)
        (folder / "gnnexport.toml").write_text('schema = 1\n[data]\npath = "data.npz"\n')
    source = load_source(Given(model, mode=mode, builder=builder), read_sidecar(model))
    program = simplify(source).program
    cases = golden_cases(source, program, lambda line: None, with_real=True, seed=0)
    cases = [case for case in cases if case.name != without]
    laws = law_checks(source, program, cases, seed=0)
    write_golden(folder / "golden.npz", cases, laws)
    stored = read_laws(folder / "golden.npz")
    assert [(check.law, check.case, check.seed, check.node) for check in stored.checks] == [
        (check.law, check.case, check.seed, check.node) for check in laws.checks
    ]
    assert stored.unchecked == laws.unchecked
    return stored


@pytest.mark.parametrize(
    ("name", "broken"), [("OfTheBatch", {"graphs-alone"}), ("ByPlace", {"edge-order", "graphs-alone"})]
)
def test_a_law_that_the_model_breaks_is_not_demanded(tmp_path: Path, name: str, broken: set[str]) -> None:
    """Statistics of a batch, and places of edges, make the model itself break some laws; all others stay."""
    laws = laws_of(tmp_path, name)
    assert set(laws.exempt) == broken
    assert all("the model's own answer changes by" in why for why in laws.exempt.values())
    every = {"node-permutation", "edge-order", "graphs-alone", "int32-indices"}
    assert {check.law for check in laws.checks} == every - broken


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_pairs_have_laws_of_their_own(tmp_path: Path, mode: str) -> None:
    """The order of pairs is that of the answers; pairs join graphs, so no graph is asked about alone."""
    laws = laws_of(tmp_path, "Links", mode)
    assert {"pair-order", "int32-indices"} <= {check.law for check in laws.checks}
    assert "graphs-alone" not in {check.law for check in laws.checks}


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_a_model_that_reads_the_order_of_pairs(tmp_path: Path, mode: str) -> None:
    """What it breaks itself is demanded in neither mode."""
    laws = laws_of(tmp_path, "LinksInTurn", mode)
    assert "the model's own answer changes by" in laws.exempt["pair-order"]
    checked = {check.law for check in laws.checks}
    assert "pair-order" not in checked
    assert "int32-indices" in checked


def test_a_law_whose_golden_case_was_left_out_is_told(tmp_path: Path) -> None:
    """What is checked on other graphs still is; what is checked on none does not vanish."""
    laws = laws_of(tmp_path, "Links", without="mixed graphs")
    checked = {check.law: check.case for check in laws.checks}
    assert checked == dict.fromkeys(("node-permutation", "edge-order"), "one-way edges")
    reason = "golden case 'mixed graphs' was left out"
    assert laws.unchecked == dict.fromkeys(("node-permutation", "edge-order", "int32-indices", "pair-order"), reason)


def test_without_noise_no_law_of_one_graph_is_checked(tmp_path: Path) -> None:
    """That is told as well."""
    laws = laws_of(tmp_path, "", "full", without="noise")
    assert laws.checks == ()
    assert laws.unchecked == {"row-locality": "golden case 'noise' was left out"}


def test_on_one_graph_features_reach_as_far_as_in_pytorch(tmp_path: Path) -> None:
    """Two layers reach two edges far; the rows beyond are stored, and stay."""
    (check,) = laws_of(tmp_path, "", "full").checks
    assert check.law == "row-locality"
    edges = np.load(tmp_path / "data.npz")["edge_index"]
    reached = {check.node}
    for _ in range(2):
        reached |= {int(edges[1, place]) for place in range(edges.shape[1]) if int(edges[0, place]) in reached}
    assert check.still is not None
    assert set(check.still.tolist()) == set(range(NODES)) - reached
    assert len(reached) > 1


SIDES = """
import torch
from torch_geometric.nn import SAGEConv

class Sides(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = SAGEConv((2, 3), 2, aggr="max")

    def forward(self, x_src, x_dst, edge_index):
        return self.conv((x_src, x_dst), edge_index)
"""


@pytest.mark.parametrize("mode", ["full", "graphs"])
def test_kinds_of_nodes(tmp_path: Path, mode: str) -> None:
    """Where there are several kinds, each has its share of every law, and one may be without any node."""
    (tmp_path / "made.py").write_text(SIDES)
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(SIDES, scope)
    torch.manual_seed(0)
    torch.save(scope["Sides"]().state_dict(), tmp_path / "model.pt")
    random = np.random.default_rng(0)
    edges = np.stack([random.integers(0, 9, 30), random.integers(0, 6, 30)])
    features = {"x__user": random.normal(size=(9, 2)), "x__item": random.normal(size=(6, 3))}
    split = {f"{name}_mask__item": np.arange(6) % 3 == place for place, name in enumerate(("train", "val", "test"))}
    labels = {"y__item": np.arange(6) // 3, **split}
    np.savez(tmp_path / "data.npz", edge_index__user__buys__item=edges, **features, **labels)
    outcome = api.export(
        tmp_path / "model.pt",
        builder=f"{tmp_path / 'made.py'}:Sides",
        data=str(tmp_path / "data.npz"),
        mode=mode,
        target="ort{aggregate=ell}",
        output=tmp_path / "bundle",
        time_budget="1s",
    )
    laws = {result.law: result.exempt for result in outcome.report.laws}
    if mode == "full":
        assert laws == {"row-locality": None}
        reached = {check.features: check for check in open_bundle(tmp_path / "bundle").laws().checks}
        assert set(reached) == {"x__user", "x__item"}
        user, item = reached["x__user"], reached["x__item"]
        assert set(item.still) == set(range(6)) - {item.node}
        assert set(user.still) >= set(range(6)) - set(edges[1][edges[0] == user.node])
        return
    assert laws == dict.fromkeys(("node-permutation", "edge-order", "int32-indices"))
    lacking = next(case for case in open_bundle(tmp_path / "bundle").golden() if case.name == "no user")
    assert lacking.feeds()["x__user"].shape == (0, 2)
    assert lacking.feeds()["edge_index__user__buys__item"].shape == (2, 0)
