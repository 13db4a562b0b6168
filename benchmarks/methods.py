"""One Markdown table of the methods that were run on phantoms, from their records.

    medbench run --suite suites/phantom.toml --output DIR
    python benchmarks/methods.py --results DIR --write docs/methods.md
    python benchmarks/methods.py --results DIR --tasks rsna_lp,rsna_lp@mgca --block "lp variants" --write PAGE

A row is an encoder, a column a task at all its label fractions. Tasks with a difference to `random` come first, the
other families follow in a table of their own.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tables

from medbench.cells import SOURCES
from medbench.records import Record, fraction_name
from medbench.results import row_key
from medbench_leaderboards.summary import Summary

BLOCK, TITLE = "methods", "Measured on phantoms"
OVER = ("rsna_lp", "rsna_det")
"""Tasks whose difference to the floor has a column."""
FIRST = (*OVER, "rsna_lp@mgca", "rsna_knn", "rsna_ft", "siim_seg", "mimic_5x200_ret", "rsna_zs")
"""The order of the columns; other tasks follow by name."""
FLOOR = "random"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder of the records")
    parser.add_argument("--tasks", help="comma-separated; default: all that have records")
    parser.add_argument("--recipe", default="tiny", help="default: tiny")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the tables into their block of a page"
    )
    parser.add_argument("--block", default=BLOCK, help=f"of the page (default: {BLOCK})")
    options = parser.parse_args()
    records = tables.read(options.results, options.recipe)
    if options.tasks:
        records = [record for record in records if record.identity.task in options.tasks.split(",")]
    text = table(records)
    if not text:
        print(f"{options.results} holds no record of recipe {options.recipe} on phantoms", file=sys.stderr)
        return 1
    print(text)
    if options.write is not None:
        tables.write(options.write, options.block, text, TITLE)
    return 0


def table(records: Sequence[Record]) -> str:
    """One row an encoder, by name; "" without records. `records` are as `tables.read` gives them."""
    if not records:
        return ""
    encoders: dict[str, list[Record]] = {}
    for record in records:
        encoders.setdefault(row_key(record.identity), []).append(record)
    names = {key: own[0].identity.method for key, own in encoders.items()}
    keys = sorted(encoders, key=lambda key: (names[key], key))
    tasks = sorted(
        {record.identity.task for record in records},
        key=lambda task: (FIRST.index(task) if task in FIRST else len(FIRST), task),
    )
    floors = [key for key in keys if names[key] == FLOOR]
    parts, notes = [], []
    for shown in ([t for t in tasks if t in OVER], [t for t in tasks if t not in OVER]):
        rows = []
        for key in keys:
            own = encoders[key]
            if not any(record.identity.task in shown for record in own):
                continue
            several = list(names.values()).count(names[key]) > 1
            name = f"{names[key]} ({own[0].identity.fidelity})" + (f" #{key[:6]}" if several else "")
            row = {"method": name, "retrieval": tables.retrieval(own)}
            for task in shown:
                shares = tables.fractions(records, task)
                cells = [tables.summary(own, task, fraction) for fraction in shares]
                row[tables.heading(records, task)] = tables.across(cells)
                notes += _notes(name, task, shares, cells)
                if task not in OVER:
                    continue
                over = f"{task} over {FLOOR} at {fraction_name(shares[0])}"
                row[over] = "–"
                if len(floors) == 1 and key not in floors:
                    row[over] = tables.over(cells[0], tables.summary(encoders[floors[0]], task, shares[0]))
            if not set(shown) & set(OVER):
                del row["retrieval"]  # stands in the first table
            rows.append(row)
        if rows:
            parts.append(tables.markdown(rows, []))
    return "\n\n".join(
        [_caption(records), *parts, *(["\n".join(f"- {note}" for note in notes)] if notes else [])]
    )


def _notes(name: str, task: str, shares: Sequence[float], cells: Sequence[Summary]) -> list[str]:
    return [
        f"{name}, {task} {fraction_name(share)}: {note}"
        for share, cell in zip(shares, cells, strict=True)
        for note in cell.notes
    ]


def _caption(records: Sequence[Record]) -> str:
    identity = records[0].identity
    source = SOURCES[identity.source]
    return (
        f"{source[0].upper()}{source[1:]} Recipe `{identity.recipe}`. In percent: mean ± standard deviation over the "
        "seeds, each with its own pretraining and its own list of labels; of one seed, its 95 % interval over test "
        f"patients. Differences to `{FLOOR}` are taken seed by seed. `retrieval`: share of the corpus' validation "
        "films whose nearest report is their own, of the epoch that was kept."
    )


if __name__ == "__main__":
    raise SystemExit(main())
