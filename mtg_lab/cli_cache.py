"""The command ``mtg-lab cache``: what the cache folder holds, and clearing it."""

import time

import click

from mtg_lab.errors import InputError

_KINDS = ("preprocessed", "phantom", "runs", "lessons")


@click.group(invoke_without_command=True)
@click.pass_context
def cache(ctx: click.Context) -> None:
    """Show what the cache holds: preprocessed samples, phantoms, runs, what notebooks wrote."""
    from mtg_lab.cache import entries, limit_bytes, size_text
    from mtg_lab.files import cache_folder

    if ctx.invoked_subcommand:
        return
    click.echo(str(cache_folder()))
    click.echo(f"{'kind':<14}{'entries':>8}{'size':>11}  last used")
    total = 0
    for kind in _KINDS:
        found = entries(kind)
        total += (size := sum(entry.size for entry in found))
        last = _days(found[-1].used) if found else ""
        click.echo(f"{kind:<14}{len(found):>8}{size_text(size):>11}  {last}".rstrip())
    click.echo(
        f"{size_text(total)} of {size_text(limit_bytes())} (MTG_LAB_CACHE_LIMIT; above it the preprocessed samples "
        "that were not used for longest are dropped, runs never)"
    )


@cache.command()
@click.argument("kind", type=click.Choice([*_KINDS, "all"]), default="preprocessed")
@click.option(
    "--older", default=0.0, type=click.FloatRange(0), metavar="DAYS", help="only what was not used for longer"
)
@click.option("--yes", is_flag=True, help="do not ask")
def clear(kind: str, older: float, yes: bool) -> None:
    """Remove what the cache holds of a kind. All of it can be made again; runs by training again."""
    from mtg_lab.cache import clear as remove
    from mtg_lab.cache import entries, size_text
    from mtg_lab.files import cache_folder

    chosen = [e for k in (_KINDS if kind == "all" else (kind,)) for e in entries(k)]
    chosen = [e for e in chosen if e.used <= time.time() - older * 86400]
    if not chosen:
        click.echo(f"{cache_folder()}: nothing to remove")
        return
    counts = {k: sum(e.kind == k for e in chosen) for k in _KINDS}
    told = ", ".join(f"{n} {k}" for k, n in counts.items() if n)
    question = f"remove {told} ({size_text(sum(e.size for e in chosen))}) from {cache_folder()}?"
    if not yes:
        try:
            click.confirm(question, abort=True)
        except click.Abort:
            raise InputError(f"nothing was removed; '{question}' was not answered with yes, or give --yes") from None
    gone = remove(chosen)
    click.echo(f"removed {len(gone)} entries, {size_text(sum(e.size for e in gone))}")
    if left := [e for e in chosen if e not in gone]:
        raise InputError(f"{left[0].path} and {len(left) - 1} more stay: a run in training, or rights are missing")


def _days(seconds: float) -> str:
    days = int((time.time() - seconds) // 86400)
    return "today" if days <= 0 else "yesterday" if days == 1 else f"{days} days ago"
