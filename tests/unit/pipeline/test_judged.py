"""Which rows are judged, and what is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv, Sequential

from gnnexport import api
from gnnexport.errors import DataError
from tests.road import Arrays, write_road

LABELS = 3


def several_labels(arrays: Arrays) -> Arrays:
    """Make labels of the classes, of which some rows know a part and some none."""
    y = np.eye(LABELS, dtype=np.float32)[arrays["y"]]
    y[::4, 0] = np.nan
    y[::10] = np.nan
    return {**arrays, "y": y}


def write_labels(folder: Path, *, ends_in_sigmoid: bool = False) -> Path:
    """Write a model of several labels with its data and sidecar."""
    model = write_road(folder, several_labels)
    torch.manual_seed(0)
    steps = [(GCNConv(6, LABELS), "x, edge_index -> x"), *([nn.Sigmoid()] if ends_in_sigmoid else [])]
    torch.save(Sequential("x, edge_index", steps).eval(), model)
    sidecar = model.with_name("gnnexport.toml")
    text = sidecar.read_text().replace('"accuracy"', '"f1-multilabel"').replace('"cross-entropy"', '"bce"')
    sidecar.write_text(text)
    return model


def test_original_and_result_are_judged_on_the_same_rows(tmp_path: Path) -> None:
    """Rows whose labels are known in part are judged with that part, in the original as in the result."""
    model = write_labels(tmp_path)
    y = np.load(tmp_path / "data.npz")["y"]
    test = np.load(tmp_path / "data.npz")["test_mask"]
    report = api.export(model, time_budget="1s").report
    before, after = report.baseline.metric, report.result.metric
    assert before is not None
    assert before == after
    assert before.n == int((test & ~np.isnan(y).all(1)).sum()) > int((test & ~np.isnan(y).any(1)).sum())


def test_a_model_that_ends_in_a_sigmoid_is_refused(tmp_path: Path) -> None:
    """Its answers are all positive, so that the metric would call every label given, before and after."""
    with pytest.raises(DataError, match="numbers from 0 to 1, but f1-multilabel takes logits"):
        api.export(write_labels(tmp_path, ends_in_sigmoid=True), time_budget="1s")
    assert not (tmp_path / "model.bundle").exists()
