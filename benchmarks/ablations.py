"""What each part of a method is worth: pretrains it without one part at a time, prints a Markdown table.

    python benchmarks/ablations.py --results benchmarks/results/ablations --write
    python benchmarks/ablations.py --results DIR --methods place --seeds 0 -- --device cuda
    python benchmarks/ablations.py --results DIR --table-only

Which parts a method has, and which fields leave them out, its class declares (`ablations`). Cells are `rsna_lp` at 1 %
and 100 %. The records of a method without a part lie in `DIR/METHOD/without-PART`, those of the whole method in
`DIR/METHOD/whole`; a pretraining that is in the cache, from `methods.py` for one, is not done again. The table is made
from the records alone. `--write` puts it into docs/methods/METHOD.md. An estimate of the time is printed first.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import grid
import tables

from medbench.plugins import load_catalogue
from medbench.records import fraction_name

BLOCK, TITLE = "ablations", "Ablations on phantoms"
TASK = "rsna_lp"
FRACTIONS = (0.01, 1.0)
PAGES = Path(__file__).resolve().parents[1] / "docs" / "methods"
WHOLE, WITHOUT = "whole", "without-"


def main() -> int:
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder of the records")
    parser.add_argument("--methods", help="comma-separated; default: all that declare ablations")
    parser.add_argument("--seeds", default="0", help="default: 0")
    parser.add_argument("--recipe", default="tiny", help="default: tiny")
    parser.add_argument("--table-only", action="store_true", help="print the tables of what is there")
    parser.add_argument("--write", action="store_true", help="put each table into its method's page")
    options = parser.parse_args(words[:at])
    catalogue = load_catalogue()
    names = options.methods.split(",") if options.methods else list(catalogue.methods)
    declared = {
        name: catalogue.load("methods", catalogue.lookup_method(name).name).ablations for name in names
    }
    failed: list[grid.Part] = []
    if not options.table_only:
        parts = [
            grid.Part(
                name,
                (TASK,),
                options.results / name / folder,
                options.seeds,
                options.recipe,
                ",".join(map(fraction_name, FRACTIONS)),
                overrides,
                tuple(words[at + 1 :]),
            )
            for name, ablations in declared.items()
            if ablations
            for folder, overrides in variants(ablations).items()
        ]
        grid.estimate(parts)
        failed = grid.run(parts)
    for name, ablations in declared.items():
        text = table(options.results / name, ablations, options.recipe)
        if text:
            print(f"{name}\n\n{text}\n")
        if text and options.write:
            tables.write(PAGES / f"{name}.md", BLOCK, text, TITLE)
    return 1 if failed else 0


def variants(ablations: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Folder of the records and overrides, of the whole method and without each part."""
    return {WHOLE: {}, **{f"{WITHOUT}{part}": dict(fields) for part, fields in ablations.items()}}


def table(folder: Path, ablations: Mapping[str, Mapping[str, str]], recipe: str) -> str:
    """One row a part; "" where there are no records."""
    found = {name: tables.read(folder / name, recipe) for name in variants(ablations)}
    if not any(found.values()):
        return ""
    whole = [tables.summary(found[WHOLE], TASK, share) for share in FRACTIONS]
    rows, notes = [], []
    for name, overrides in variants(ablations).items():
        cells = [tables.summary(found[name], TASK, share) for share in FRACTIONS]
        row = {
            "": name.replace(WITHOUT, "without "),
            "set": " ".join(f"`{key}={value}`" for key, value in overrides.items()),
        }
        for share, cell, reference in zip(FRACTIONS, cells, whole, strict=True):
            row[f"{TASK} {fraction_name(share)}"] = cell.text
            row[f"to the whole, {fraction_name(share)}"] = tables.over(cell, reference) if overrides else ""
            notes += [f"{name}, {fraction_name(share)}: {note}" for note in cell.notes]
        rows.append(row)
    caption = (
        f"PHANTOM data, recipe `{recipe}`, AUROC in percent. Of one seed: its 95 % interval over test patients; of "
        "several: mean ± standard deviation. Differences in points, seed by seed."
    )
    return f"{caption}\n\n{tables.markdown(rows, notes)}"


if __name__ == "__main__":
    raise SystemExit(main())
