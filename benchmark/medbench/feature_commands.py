"""The verbs of `medbench features`."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from medbench import options as o
from medbench.commands import (
    Environment,
    prepare_process,
    pretrain_request,
    print_json,
    read_plugins,
    verb,
)
from medbench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medbench.feature_cache import Entry

app = typer.Typer(help="Features of frozen encoders: ls, gc, extract.", no_args_is_help=True)

DAY = 86_400


@verb(app, "ls")
def features_ls(options: o.FeaturesOptions) -> int:
    """List the features that are kept in the cache.

    Whose they are, of what, how large, and when they were used last.
    """
    read_plugins(options)
    from medbench.describe import table
    from medbench.feature_cache import FOLDER, held

    root = Environment.read().cache_folder() / FOLDER
    entries = held(root, check=options.check)
    if options.as_json:
        print_json([_about(entry) for entry in entries])
        return 0
    if not entries:
        typer.echo(f"no features in {root}")
        return 0
    total = sum(entry.bytes for entry in entries) / 1e9
    typer.echo(f"{table(_rows(entries))}\n\n{total:,.2f} GB in {len(entries)} folders of {root}")
    return 0


@verb(app, "gc")
def features_gc(options: o.FeaturesGcOptions) -> int:
    """Free kept features.

    Those that are of no more use: unfinished, damaged, or another version's. With --older-than also those that were not
    used for so long, with --all every one. What a run uses or makes is left alone. A run that needs freed features
    extracts them again.
    """
    read_plugins(options)
    if options.everything and options.older_than is not None:
        raise UsageError("--all frees every feature whatever its age; give it or --older-than, not both.")
    from medbench.describe import table
    from medbench.feature_cache import FOLDER, free, held

    root = Environment.read().cache_folder() / FOLDER
    oldest = time.time() - (options.older_than or 0) * DAY
    wanted = [
        entry
        for entry in held(root)
        if options.everything
        or entry.state != "sound"
        or (options.older_than is not None and entry.used < oldest)
    ]
    freed = wanted if options.dry_run else free(wanted)
    if freed:
        typer.echo(f"{table(_rows(freed))}\n")
    total = sum(entry.bytes for entry in freed) / 1e9
    word = "would free" if options.dry_run else "freed"
    typer.echo(f"{word} {total:,.2f} GB in {len(freed)} folders of {root}")
    if len(freed) < len(wanted):
        left = len(wanted) - len(freed)
        typer.echo(f"{left} more are being used or made and were left alone, or are not yours to remove")
    return 0


@verb(app, "extract")
def features_extract(options: o.ExtractOptions) -> int:
    """Write the features of a dataset's films into a parquet file, a row a film.

    The pooled output of a method's image encoder, with sample and patient; what made it is in the metadata of the
    file's schema. Without any data named, of phantom films.
    """
    catalogue = read_plugins(options)
    if options.out.suffix != ".parquet":
        raise UsageError(f"--out {options.out}: expected a file that ends in .parquet.")
    name = options.name
    if not name.startswith("table:"):
        name = catalogue.lookup_dataset(name).name
    request = replace(
        pretrain_request(options, catalogue), films=name, checkpoint=options.checkpoint, split=options.split
    )
    prepare_process(request)
    from medbench.extraction import extract

    films, width = extract(request, catalogue, options.out)
    typer.echo(f"{options.out}: {films:,} films, {width:,} numbers each")
    return 0


def _about(entry: "Entry") -> dict[str, Any]:
    """A folder for `--json`; what it does not say of itself is None."""
    identity = entry.about.get("identity", {})
    return {
        "key": entry.folder.name,
        **{name: entry.about.get(name) for name in ("method", "dataset", "source", "split", "films")},
        "weights": identity.get("encoder"),
        **{name: identity.get(name) for name in ("kind", "dtype", "preprocessing", "fit")},
        "bytes": entry.bytes,
        "used": entry.used,
        "state": entry.state,
    }


def _rows(entries: "Sequence[Entry]") -> list[dict[str, str]]:
    """One row a folder, for a table."""
    return [
        {
            "key": about["key"][:12],
            "method": about["method"] or "",
            "weights": (about["weights"] or "")[:12],
            "dataset": " ".join(filter(None, (about["dataset"], about["split"]))),
            "films": f"{about['films']:,}" if about["films"] is not None else "",
            "kind": about["kind"] or "",
            "size": f"{about['bytes'] / 1e6:,.1f} MB",
            "last used": time.strftime("%Y-%m-%d %H:%M", time.localtime(about["used"])),
            "state": about["state"],
        }
        for about in map(_about, entries)
    ]
