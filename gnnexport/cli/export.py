"""`gnnexport export`: lower and prove without compressing."""

from __future__ import annotations

from gnnexport.cli import options
from gnnexport.cli.outcome import tell
from gnnexport.cli.progress import progress


def export(
    model: options.Model,
    target: options.Targets = None,
    data: options.Data = None,
    inputs: options.Inputs = None,
    mode: options.Mode = None,
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
    decisions: options.Decisions = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Lower a trained model as it is, and prove the result."""
    with progress() as show:
        from gnnexport import api

        outcome = api.export(
            model,
            target=target,
            data=data,
            inputs=inputs,
            mode=mode,
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
            decisions=decisions,
            dry_run=dry_run,
            progress=show,
        )
    return tell(outcome, as_json=json)
