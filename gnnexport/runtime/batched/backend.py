"""A model in mode `batched` as an engine: ids of nodes in, answers out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from gnnexport.bundle.manifest import Tensor
from gnnexport.bundle.stages import NODE_IDS, NUM_TARGETS
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.batched.chain import Chain
from gnnexport.runtime.batched.model import BatchedModel


class BatchedBackend(Backend):
    """Answer from the whole present graph, each request by itself; what else can be asked is asked of `model`."""

    concurrent = True

    def __init__(self, chain: Chain, where: str, threads: int | None = None) -> None:
        """Take over what was loaded; see `BatchedModel`."""
        self.model = BatchedModel(chain, where, threads)
        self.rounded = True
        last = chain.links[-1]
        self.name = last.backend.name
        self.inputs = (Tensor(name=NODE_IDS, dtype="int64", shape=(NUM_TARGETS,)),)
        self.outputs = (Tensor(name=last.spec.output, dtype="float32", shape=(NUM_TARGETS, *last.tail)),)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answer for the nodes of `node_ids`.

        Raises:
            UsageError: an id that there is not.
        """
        return self.model.predict(feeds[NODE_IDS], rounded=self.rounded).outputs

    def unrounded(self) -> BatchedBackend:
        """Return an engine that leaves rows between stages as they are, whatever the store has of them."""
        twin = copy.copy(self)
        twin.rounded = False
        return twin

    def close(self) -> None:
        """Release the engines of all stages."""
        self.model.close()
