"""`gnnexport targets`: the catalogue of targets."""

from __future__ import annotations

from gnnexport.cli import options
from gnnexport.cli.catalogue import print_catalogue


def targets(json: options.Json = False) -> int:
    """List the targets and their options."""
    from gnnexport import api

    print_catalogue(api.targets(), as_json=json)
    return 0
