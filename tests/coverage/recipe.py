"""What a row of the table of coverage is: how to make a model of some kind, and what it is asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WIDTH, HIDDEN, CLASSES, EDGE_WIDTH, RELATIONS = 8, 8, 3, 4, 3
PLAIN = ("x", "edge_index")
WEIGHTED = (*PLAIN, "edge_weight")
ATTRIBUTED = (*PLAIN, "edge_attr")
TYPED = (*PLAIN, "edge_type")
BATCHED = (*PLAIN, "batch", "num_graphs")


@dataclass(frozen=True)
class Recipe:
    """One row.

    Args:
        group: the table it stands in.
        name: of the layer, model or piece, with what sets it apart.
        make: makes the module, in evaluation mode or not.
        inputs: names of the arguments of its `forward`.
        edges: makes the edges of a graph of so many nodes where any will not do.
    """

    group: str
    name: str
    make: Callable[[], nn.Module]
    inputs: tuple[str, ...] = PLAIN
    edges: Callable[[int], Tensor] | None = None

    def __str__(self) -> str:
        return f"{self.group} {self.name}"


class Wrapped(nn.Module):
    """A layer between others, so that its numbers are not those of the inputs."""

    def __init__(self, layer: nn.Module, call: Callable[..., Tensor] | None = None, width: int = HIDDEN) -> None:
        """Wrap a layer.

        Args:
            layer: takes `WIDTH` channels.
            call: how it is called, with the layer and the inputs; by default with the inputs in order.
            width: of what it gives.
        """
        super().__init__()
        self.before, self.layer, self.after = nn.Linear(WIDTH, WIDTH), layer, nn.Linear(width, CLASSES)
        self.call = call

    def answer(self, x: Tensor, *others: Tensor) -> Tensor:
        """Run the three."""
        x = self.before(x)
        out = self.layer(x, *others) if self.call is None else self.call(self.layer, x, *others)
        return torch.as_tensor(self.after(out))


class OnPlain(Wrapped):
    """Over edges alone."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Answer for nodes."""
        return self.answer(x, edge_index)


class OnWeighted(Wrapped):
    """Over weighted edges."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        """Answer for nodes."""
        return self.answer(x, edge_index, edge_weight)


class OnAttributed(Wrapped):
    """Over edges with features."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Answer for nodes."""
        return self.answer(x, edge_index, edge_attr)


class OnTyped(Wrapped):
    """Over edges of several types."""

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        """Answer for nodes."""
        return self.answer(x, edge_index, edge_type)


class OnBatched(Wrapped):
    """Over graphs; the answer is for graphs or nodes, as the layer gives it."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Answer for graphs."""
        return self.answer(x, edge_index, batch, num_graphs)  # type: ignore[arg-type]


WRAPPERS: dict[tuple[str, ...], type[Wrapped]] = {
    PLAIN: OnPlain,
    WEIGHTED: OnWeighted,
    ATTRIBUTED: OnAttributed,
    TYPED: OnTyped,
    BATCHED: OnBatched,
}


def wrapped(
    group: str,
    name: str,
    layer: Callable[[], nn.Module],
    inputs: tuple[str, ...] = PLAIN,
    *,
    call: Callable[..., Tensor] | None = None,
    width: int = HIDDEN,
    edges: Callable[[int], Tensor] | None = None,
) -> Recipe:
    """Return the recipe of a layer that stands between two linear ones."""
    return Recipe(group, name, lambda: WRAPPERS[inputs](layer(), call, width), inputs, edges)
