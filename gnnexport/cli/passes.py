"""`gnnexport passes`: the catalogue of passes."""

from __future__ import annotations

from gnnexport.cli import options
from gnnexport.cli.catalogue import print_catalogue


def passes(json: options.Json = False) -> int:
    """List the passes and their options."""
    from gnnexport import api

    print_catalogue(api.passes(), as_json=json)
    return 0
