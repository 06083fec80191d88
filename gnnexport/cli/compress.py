"""`gnnexport compress`: the main job."""

from __future__ import annotations

from typing import Annotated

import typer

from gnnexport.cli import options
from gnnexport.cli.outcome import tell
from gnnexport.cli.progress import progress


def compress(
    model: options.Model,
    target: options.Targets = None,
    passes: Annotated[
        list[str] | None,
        typer.Option(
            "--passes", metavar="SPEC", help="Passes to run, such as 'prune-channels{keep=0.5}'; or auto, or none."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="FILE", help="TOML with passes, target and budgets.")
    ] = None,
    data: options.Data = None,
    inputs: options.Inputs = None,
    mode: options.Mode = None,
    max_drop: Annotated[
        str | None, typer.Option("--max-drop", metavar="0.5pp", help="Fail with 3 when the metric falls by more.")
    ] = None,
    min_speedup: options.MinSpeedup = None,
    time_budget: options.TimeBudget = None,
    output: options.Output = None,
    seed: options.Seed = 0,
    force: options.Force = False,
    trust: options.Trust = False,
    builder: options.Builder = None,
    code: options.Code = None,
    embed_data: options.EmbedData = options.EMBED_DATA,
    no_embed: options.NoEmbed = False,
    store: options.Store = None,
    memory: options.Memory = None,
    decisions: options.Decisions = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Compress and lower a trained model, and prove the result.

    Accuracy, size and latency are measured on the very files that the bundle ships.
    """
    with progress() as show:
        from gnnexport import api

        outcome = api.compress(
            model,
            target=target,
            passes=passes,
            recipe=recipe,
            data=data,
            inputs=inputs,
            mode=mode,
            max_drop=max_drop,
            min_speedup=min_speedup,
            time_budget=time_budget,
            output=output,
            seed=seed,
            force=force,
            trust=trust,
            builder=builder,
            code=code,
            embed_data=options.EMBED_NOTHING if no_embed else embed_data,
            store=store,
            memory=memory,
            decisions=decisions,
            dry_run=dry_run,
            progress=show,
        )
    return tell(outcome, as_json=json)
