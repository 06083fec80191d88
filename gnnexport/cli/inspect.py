"""`gnnexport inspect`: what a model or a bundle holds."""

from __future__ import annotations

from typing import Annotated

import typer

from gnnexport.cli import options
from gnnexport.cli.document import print_json
from gnnexport.cli.progress import progress


def inspect(
    path: Annotated[str, typer.Argument(metavar="MODEL|BUNDLE", help="A saved model, or a bundle.")],
    data: options.Data = None,
    inputs: options.Inputs = None,
    mode: options.Mode = None,
    trust: options.Trust = False,
    builder: options.Builder = None,
    code: options.Code = None,
    json: options.Json = False,
) -> int:
    """Show a model's ops, their cost, and what would be slow.

    Prints the Program as text, the message passing that was recognised, parameters, multiply-accumulates
    and bytes. Of a bundle it shows what the manifest says.
    """
    with progress() as show:
        from gnnexport import api

        inspection = api.inspect(
            path, data=data, inputs=inputs, mode=mode, trust=trust, builder=builder, code=code, progress=show
        )
    if json:
        print_json(inspection.to_dict())
    else:
        typer.echo(inspection.text)
    return 0
