"""`gnnexport validate`: prove a bundle on this machine."""

from __future__ import annotations

from gnnexport.cli import options
from gnnexport.cli.outcome import tell
from gnnexport.cli.progress import progress


def validate(
    bundle: options.Bundle,
    data: options.TestData = None,
    time_budget: options.TimeBudget = None,
    json: options.Json = False,
) -> int:
    """Prove a bundle on this machine, without torch.

    Checks its numbers against its own test vectors, its accuracy where labels are at hand, and its latency.
    """
    with progress() as show:
        from gnnexport import api

        outcome = api.validate(bundle, data=data, time_budget=time_budget, progress=show)
    return tell(outcome, as_json=json)
