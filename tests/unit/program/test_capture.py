from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GCN

from gnnexport.errors import DataError, UnsupportedError
from gnnexport.program import capture as program_capture
from gnnexport.program.capture import capture
from gnnexport.program.functional import is_mutating
from gnnexport.program.program import Program, example_inputs
from tests.small_models import (
    HIDDEN,
    PLAIN,
    WIDTH,
    Handwritten,
    captured,
    inputs_of,
    model,
    ops,
    run,
    run_model,
    summed,
)


def capture_plain(module: nn.Module) -> Program:
    """Capture a model of features and edges."""
    return capture(module, inputs_of("GCN"), example_inputs(inputs_of("GCN")))


@pytest.mark.parametrize("name", ["GCN", "GraphSAGE", "GIN", "GAT", "GATv2", "PNA", "Sequential", "residual"])
def test_families_are_captured(name: str) -> None:
    """Each family is captured without mutating ops, retrainable, and equal on a graph of another size."""
    program = captured(name)
    inputs = program.example(23, seed=9)
    torch.testing.assert_close(run(program, inputs), run_model(name, inputs), rtol=1e-5, atol=1e-5)
    assert program.training_blocker is None
    assert not any(is_mutating(node) for node in program.body.graph.nodes)
    assert program.source in ("GCN", "GraphSAGE", "GIN", "GAT", "PNA", "Sequential", "Handwritten")


def test_model_is_left_alone() -> None:
    """Capturing changes neither the weights nor the mode of the model."""
    given = model("GCN batch norm")
    before = copy.deepcopy(given.state_dict())
    assert capture_plain(given).training_blocker is None
    assert not given.training
    assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())


def test_training_is_captured_once_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone knows what its original found out, draws of random numbers go on as they would have."""
    modes: list[bool] = []
    functional_capture = program_capture._functional_capture

    def count(module: nn.Module, *given: Any) -> Any:
        modes.append(module.training)
        return functional_capture(module, *given)

    monkeypatch.setattr(program_capture, "_functional_capture", count)
    given = Handwritten(lambda m, x, edge_index: torch.as_tensor(m.last(summed(m.first(x), edge_index)))).eval()
    program = capture_plain(given)
    assert modes == [False]
    given.first = None  # type: ignore[assignment]
    state = torch.get_rng_state()
    assert [item.training_blocker for item in (program.clone(), program, program.clone().clone())] == [None] * 3
    assert modes == [False, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_widths_that_equal_sizes_stay_apart() -> None:
    """A width equal to the example's number of nodes or edges is still a width."""
    example = example_inputs(inputs_of("GCN"))
    nodes, edges = example["x"].shape[0], example["edge_index"].shape[1]
    module = GCN(WIDTH, nodes, 2, edges).eval()
    program = capture_plain(module)
    other = program.example(19, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(run(program, other), module(**other), rtol=1e-5, atol=1e-5)


def sliced(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Write to a value after a part of it was taken."""
    h = m.first(x)
    part = h[:, :4]
    h += summed(h, edge_index)
    return m.last(h) + part.sum(1, keepdim=True)


def dropped(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Write to what evaluation-mode dropout returns: its argument."""
    h = m.first(x)
    same = m.dropout(h)
    same += summed(h, edge_index)
    return m.last(h + same)


def reshaped(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Write through a reshape."""
    h = m.first(x)
    same = h.reshape(-1, 8)
    same *= summed(h, edge_index)
    return m.last(h + same)


def transposed(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Write to a value that a view of a view still shows."""
    h = m.first(x)
    same = h.t().t()
    h.mul_(summed(h, edge_index))
    return m.last(same)


def input_written(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
    """Write to the caller's features."""
    x += summed(x, edge_index)
    return m.last(m.first(x))


@pytest.mark.parametrize("forward", [sliced, dropped, reshaped, transposed, input_written])
def test_writes_that_others_see_are_refused(forward: Callable[[Handwritten, Tensor, Tensor], Tensor]) -> None:
    """A write through shared memory has no functional twin here; rewriting it would change the numbers."""
    with pytest.raises(UnsupportedError, match="writes in place through a view"):
        capture_plain(Handwritten(forward))


def test_in_place_activation_on_a_private_value_is_fine() -> None:
    """In-place ops on values that nobody reads again become functional."""

    def forward(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        h = functional.relu(summed(m.first(x), edge_index) + 1, inplace=True)
        h[h < 0.5] = 0.1
        return torch.as_tensor(m.last(h.view(-1, 8).clamp_(max=3)))

    module = Handwritten(forward).eval()
    program = capture_plain(module)
    inputs = program.example(13)
    with torch.no_grad():
        torch.testing.assert_close(run(program, inputs), module(**inputs))
    assert not [op for op in ops(program) if op.split(".")[1].endswith("_")]


def test_always_on_dropout_is_refused() -> None:
    """A model that is random in evaluation mode has no output to compare with."""

    def forward(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        return torch.as_tensor(m.last(functional.dropout(summed(m.first(x), edge_index), 0.5, training=True)))

    with pytest.raises(UnsupportedError, match="training mode although the model is in evaluation mode"):
        capture_plain(Handwritten(forward))


def test_module_frozen_in_evaluation_blocks_retraining() -> None:
    """A normalisation that the model keeps in evaluation mode would start to move; the module is named."""

    class Frozen(Handwritten):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.train(False)
            return self

    def forward(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        return torch.as_tensor(m.last(m.norm(summed(m.first(x), edge_index))))

    program = capture_plain(Frozen(forward))
    assert program.training_blocker == "norm (BatchNorm1d) stays in evaluation mode in training"


def test_other_behaviour_in_training_blocks_retraining() -> None:
    """A branch taken only in training is named."""

    def forward(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        h = summed(m.first(x), edge_index)
        return torch.as_tensor(m.last(h * 2 if m.training else h))

    program = capture_plain(Handwritten(forward))
    assert program.training_blocker is not None
    assert "computes something else in training" in program.training_blocker


def test_unread_input_is_an_error() -> None:
    """A layer that kept another graph's values, or a needless argument, shows as an input nothing reads."""
    with pytest.raises(DataError, match="nothing reads the input 'edge_index'"):
        capture_plain(Handwritten(lambda m, x, edge_index: torch.as_tensor(m.last(m.first(x)))))


def test_an_input_of_which_only_the_size_is_read_is_an_error() -> None:
    """A model of degrees alone has nothing to compute once its graph is known."""

    def degrees(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        ones = torch.ones(edge_index.shape[1], WIDTH)
        return m.last(m.first(torch.zeros(x.shape[0], WIDTH).index_add(0, edge_index[1], ones)))

    with pytest.raises(DataError, match="nothing reads the values of the input 'x'"):
        capture_plain(Handwritten(degrees))


def test_several_outputs_are_refused() -> None:
    """One tensor is returned, or the error says to."""

    class Two(nn.Module):
        def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
            return x, summed(x, edge_index)

    with pytest.raises(UnsupportedError, match="returns several values"):
        capture_plain(Two())


def test_control_flow_on_values_is_explained(capfd: pytest.CaptureFixture[str]) -> None:
    """What torch.export cannot follow ends in one error with a mend, without torch's own output."""

    def forward(m: Handwritten, x: Tensor, edge_index: Tensor) -> Tensor:
        return torch.as_tensor(m.last(m.first(x)) if x.sum() > 0 else m.last(summed(m.first(x), edge_index)))

    with pytest.raises(UnsupportedError, match="Look for control flow on tensor values"):
        capture_plain(Handwritten(forward))
    assert capfd.readouterr().err == ""


def test_cached_layers_do_not_keep_the_example() -> None:
    """Layers that cache their normalisation are captured with the computation, not with its result."""
    module = GCN(WIDTH, HIDDEN, 2, 3, cached=True).eval()
    program = capture_plain(module)
    inputs = program.example(19)
    with torch.no_grad():
        torch.testing.assert_close(run(program, inputs), module(**inputs), rtol=1e-5, atol=1e-5)
    assert tuple(item.name for item in program.inputs) == PLAIN
