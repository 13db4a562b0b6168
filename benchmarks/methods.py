"""Every method of the catalogue on phantoms: pretrains, evaluates, prints one Markdown table.

    python benchmarks/methods.py --results benchmarks/results/methods --write docs/methods.md
    python benchmarks/methods.py --results DIR --methods random,clip --tasks rsna_lp --seeds 0 -- --device cuda
    python benchmarks/methods.py --results DIR --table-only

A row is a method that pretrains, or a baseline. A column is a task at all its label fractions, by default one of each
family; another task is one more name for `--tasks`. Tasks with a difference to `random` come first, the other families
follow in a table of their own. The tables are made from the records below `--results` alone, so an interrupted grid
goes on by the same command, and `--table-only` computes nothing. Words after `--` go to `medbench run`. Exit code 1: a
cell failed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grid
import tables

from medbench.cells import SOURCES
from medbench.plugins import Catalogue, load_catalogue
from medbench.records import Record, fraction_name
from medbench_leaderboards.groups import row_key
from medbench_leaderboards.summary import Summary

BLOCK, TITLE = "methods", "Measured on phantoms"
OVER = ("rsna_lp", "rsna_det")
"""Tasks whose difference to the floor has a column."""
TASKS = ",".join((*OVER, "rsna_lp@mgca", "rsna_knn", "rsna_ft", "siim_seg", "mimic_5x200_ret", "rsna_zs"))
FLOOR = "random"


def main() -> int:
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder of the records")
    parser.add_argument("--methods", help="comma-separated; default: all that pretrain, and the baselines")
    parser.add_argument("--tasks", default=TASKS, help=f"default: {TASKS}")
    parser.add_argument("--seeds", default="0,1,2", help="default: 0,1,2")
    parser.add_argument("--recipe", default="tiny", help="default: tiny")
    parser.add_argument("--table-only", action="store_true", help="print the table of what is there")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the tables into their block of a page"
    )
    parser.add_argument("--block", default=BLOCK, help=f"of the page (default: {BLOCK})")
    options = parser.parse_args(words[:at])
    catalogue = load_catalogue()
    failed: list[grid.Part] = []
    if not options.table_only:
        names = options.methods.split(",") if options.methods else measured(catalogue)
        parts = [
            grid.Part(
                name, tasks, options.results, options.seeds, options.recipe, more=tuple(words[at + 1 :])
            )
            for name in names
            if (tasks := served(catalogue, name, options.tasks.split(",")))
        ]
        grid.estimate(parts)
        failed = grid.run(parts)
    records = tables.read(options.results, options.recipe)
    if options.tasks != TASKS:
        records = [record for record in records if record.identity.task in options.tasks.split(",")]
    text = table(records)
    if not text:
        grid.say(f"{options.results} holds no record of recipe {options.recipe} on phantoms")
        return 1
    print(text)
    if options.write is not None:
        tables.write(options.write, options.block, text, TITLE)
    if failed:
        grid.say(f"failed in part: {', '.join(part.method for part in failed)}; the same command tries again")
    return 1 if failed else 0


def measured(catalogue: Catalogue) -> list[str]:
    """Methods that have a row."""
    return [s.name for s in catalogue.methods.values() if s.pretrains or s.fidelity == "baseline"]


def served(catalogue: Catalogue, method: str, tasks: Sequence[str]) -> tuple[str, ...]:
    """Of these tasks, those that the method has the features for."""
    provides = catalogue.lookup_method(method).provides
    return tuple(task for task in tasks if catalogue.lookup_task(task).needs <= provides)


def table(records: Sequence[Record]) -> str:
    """One row an encoder, by name; "" without records. `records` are as `tables.read` gives them."""
    if not records:
        return ""
    encoders: dict[str, list[Record]] = {}
    for record in records:
        encoders.setdefault(row_key(record.identity), []).append(record)
    names = {key: own[0].identity.method for key, own in encoders.items()}
    keys = sorted(encoders, key=lambda key: (names[key], key))
    first = TASKS.split(",")
    tasks = sorted(
        {record.identity.task for record in records},
        key=lambda task: (first.index(task) if task in first else len(first), task),
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
