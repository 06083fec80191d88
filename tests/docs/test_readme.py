from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from gnnexport.cli import app
from tests.docs.documents import REPOSITORY, blocks, command_lines
from tests.road import small_graph, write_road

README = REPOSITORY / "README.md"


def test_own_model_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the README says about one's own model works when it is followed word for word."""
    model = torch.load(write_road(tmp_path / "trained"), weights_only=False)
    graph = {name: torch.from_numpy(array) for name, array in small_graph().items()}
    data = Data(**{**graph, "edge_index": graph["edge_index"].long()})
    save, load, ask = blocks(README, "python")
    (sidecar,) = blocks(README, "toml")
    monkeypatch.chdir(tmp_path)

    exec(save, {"torch": torch, "model": model, "data": data})
    Path("gnnexport.toml").write_text(sidecar)
    inspect, compress, validate, _ = [shlex.split(line)[1:] for line in command_lines(README)]
    assert app.run(inspect) == 0
    code = app.run([*compress, "--time-budget", "5s"])
    # The graph has 21 test nodes, so that one of them costs the budget; the bundle is there either way.
    assert code == (3 if json.loads(Path("model.bundle/report.json").read_text())["drop"]["value"] > 0.005 else 0)
    assert app.run([*validate, "--time-budget", "1s"]) == code

    namespace: dict[str, Any] = {"x": small_graph()["x"]}
    exec(load, namespace)
    assert namespace["logits"].shape == (60, 3)
    assert np.isfinite(namespace["logits"]).all()

    assert app.run(["export", "model.pt", "--mode", "batched", "--force", "--time-budget", "3s"]) == 0
    exec(ask, namespace)
    assert namespace["logits"].shape == (2, 3)
