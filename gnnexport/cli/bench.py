"""`gnnexport bench`: latency and throughput of a bundle."""

from __future__ import annotations

from gnnexport.cli import options
from gnnexport.cli.outcome import tell
from gnnexport.cli.progress import progress


def bench(bundle: options.Bundle, time_budget: options.TimeBudget = None, json: options.Json = False) -> int:
    """Time a bundle on this machine, and nothing else."""
    with progress() as show:
        from gnnexport import api

        outcome = api.bench(bundle, time_budget=time_budget, progress=show)
    return tell(outcome, as_json=json)
