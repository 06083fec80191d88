"""Show on stderr what a long command is doing: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that takes one line for each step; a line stands until the next one comes."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: typer.echo(line, err=True)
        return
    with console.status("starting") as status:

        def show(line: str) -> None:
            console.print(escape(line), style="dim")
            status.update(escape(line))

        yield show
