"""The protocol of publications: train on edges chosen anew in every epoch, and evaluate on all of them.

The repositories of Unifews (ICML 2025) make their masks from the full set of edges in each epoch (`pruneall`), take
training steps on what is left, and put all edges back for evaluation, by which they select the epoch. What comes out
says how training bears it; nothing that is exported computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from gnnexport.errors import UnsupportedError
from gnnexport.program.edge_layers import EdgeLayer
from gnnexport.program.edge_walk import EdgeWalk
from gnnexport.program.program import Program
from gnnexport.training.edges.choosing import Chooser, Plan
from gnnexport.training.feeding import Feed, WholeFeed
from gnnexport.training.parts import Part
from gnnexport.training.regime import Regime
from gnnexport.training.trainer import History, Trainer

NO_ROOM = "the protocol takes steps on the whole graph, which do not fit into the memory allowed"


def fit_published(
    trainer: Trainer, program: Program, inputs: Mapping[str, Tensor], layers: list[EdgeLayer], plan: Plan, *,
    seed: int, epochs: int | None = None, lr: float | None = None, teacher: Program | None = None, distil: float = 0.0,
    everywhere: bool = False,
) -> tuple[Program, History]:  # fmt: skip
    """Train a copy of a Program as publications do.

    Args:
        trainer: of the one graph.
        program: with all edges, annotated, in evaluation mode; left as it is.
        inputs: the graph, by name.
        layers: found in it.
        plan: what goes in every epoch.
        seed: of training.
        epochs: at most; by default the task's.
        lr: step size; by default the task's.
        teacher: as for `Trainer.fit`.
        distil: likewise.
        everywhere: likewise.

    Returns:
        The Program with all edges, of the epoch that is best when evaluated on all of them, and how training went; the
        Program as it was given is none of its epochs, unless there are no others.

    Raises:
        UnsupportedError: a step on the whole graph takes more memory than is allowed, or as `Trainer.fit`.
    """
    chooser = Chooser(program, inputs, layers, plan)
    return trainer.fit(
        chooser.program, seed=seed, epochs=epochs, lr=lr, teacher=teacher, distil=distil,
        everywhere=everywhere, regime=_Published(chooser),
    )  # fmt: skip


def why_not_published(trainer: Trainer, program: Program) -> str:
    """Tell why the protocol cannot be followed; empty where it can."""
    fits = isinstance(trainer.feed(program), WholeFeed)
    return "" if fits else NO_ROOM


class _Published(Regime):
    """Puts into each step the edges that the weights of the moment leave."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self._program: Program
        self._walk: EdgeWalk
        self._trained = False

    def begin(self, program: Program, feed: Feed) -> None:
        """Refuse parts of a graph, whose edges would be others than those of the whole."""
        if not isinstance(feed, WholeFeed):
            raise UnsupportedError.at("published=true", NO_ROOM, "Allow more with --memory, or drop published=true")
        self._program, self._walk, self._trained = program, self._chooser.walk(program), False

    def part(self, part: Part) -> Part:
        """Return the part on the edges that are left."""
        self._program.train(False)
        self._walk.restart()
        self._chooser.choose(self._walk)
        self._program.train(True)
        return replace(part, structure=self._walk.structure())

    def stepped(self, part: Part) -> None:
        """Count from the first step on."""
        del part
        self._trained = True

    def admits(self) -> bool:
        """Leave out the weights that training started from: they never saw fewer edges."""
        return self._trained
