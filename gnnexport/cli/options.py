"""The options that several commands share.

Paths are taken as text: a `Path` made of an empty text is the current folder, and an unset variable of a shell is no
wish for that.
"""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A module saved with torch.save; gnnexport.toml beside it is read.")
]
Bundle = Annotated[str, typer.Argument(metavar="BUNDLE", help="A folder that compress or export wrote.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", metavar="T[,T]", help="Where the model shall run, such as ort or 'ort{threads=2}'."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="FILE", help="The graph or graphs: .npz, PyG data as .pt, or load.py:function."),
]
TestData = Annotated[str | None, typer.Option("--data", metavar="FILE", help="The .npz that the bundle was made with.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="x=N,16", help="Width of an input, where no data and no weight tells it."),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="full|batched|graphs",
        help="One fixed graph, some nodes of a graph that grows, or new graphs in every request.",
    ),
]
MinSpeedup = Annotated[
    str | None,
    typer.Option(
        "--min-speedup", metavar="X", help="Fail with 4 below it: 2 (against PyTorch), 2x-exported (uncompressed)."
    ),
]
TimeBudget = Annotated[
    str | None, typer.Option("--time-budget", metavar="10m", help="Stop trying and measuring after this long.")
]
Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="DIR", help="The bundle; else MODEL's name plus .bundle.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seeds every random choice.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")]
Trust = Annotated[bool, typer.Option("--trust", help="Let the model, data and sidecar files run their code.")]
Builder = Annotated[
    str | None,
    typer.Option("--builder", metavar="MODULE:FUNCTION", help="Builds the model; MODEL then holds its state dict."),
]
Code = Annotated[
    str | None,
    typer.Option("--code", metavar="FILE", help="Script that defines the model's class; only with --trust."),
]
EmbedData = Annotated[
    str, typer.Option("--embed-data", metavar="64MB", help="Store test features and labels in the bundle up to this.")
]
NoEmbed = Annotated[bool, typer.Option("--no-embed", help="Store no features and no labels in the bundle.")]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="256MB", help="Memory for hidden rows between requests, in mode batched."),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="4GB", help="Train in mini-batches where the whole graph would take more."),
]
Decisions = Annotated[
    str | None,
    typer.Option("--decisions", metavar="FILE", help="Replay decisions.json of a bundle instead of timing lowerings."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would run, and write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]

EMBED_DATA = "64MB"
"""The most that a bundle stores of the test data, unless told."""
EMBED_NOTHING = "0MB"
