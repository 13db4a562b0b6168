"""Every family of tasks on the small public sets of real films that the tests use; writes its page.

    python benchmarks/real_films.py --data "$MEDBENCH_TEST_DATA" --results DIR --write docs/real_films.md
    python benchmarks/real_films.py --data "$MEDBENCH_TEST_DATA" --results DIR --only lungs,notes
    python benchmarks/real_films.py --data "$MEDBENCH_TEST_DATA" --results DIR --tables

Each part is a command of `medbench run` that anyone can type, below `--results`, where this script writes the tables
that it names. What is done is not done again. Exit code 1: a part failed; the page is then left as it was.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tables
from grid import say

BLOCK, TITLE = "real films", "Measured on real films"

CORPUS = "table:tables/notes.csv"


@dataclass(frozen=True)
class Part:
    """One command and what it is about.

    Attributes:
        name: as `--only` takes it.
        about: one sentence above the table.
        words: of `medbench run`; `{data}` stands for the folder of the films.
    """

    name: str
    about: str
    words: str


PARTS = (
    Part(
        "nih",
        "Pneumonia against no finding on 608 films of NIH ChestX-ray14: linear probes, fine-tuning, neighbours. "
        "Divided by patient, by a hash: the films that are of the official test part all show pneumonia.",
        "-m random,imagenet -t lp:table:tables/nih.csv,knn:table:tables/nih.csv,"
        "ft:table:tables/nih.csv --fraction 100%",
    ),
    Part(
        "rsna",
        "202 films of the RSNA challenge in its own folder layout: classification, detection, segmentation of the "
        "boxes.",
        "-m random,imagenet -t rsna_lp,rsna_lp@mgca,rsna_knn,rsna_ft,rsna_det,rsna_seg --data rsna={data}/rsna_layout "
        "--fraction 100%",
    ),
    Part(
        "zero-shot",
        "The same films without any label, by prompts; the encoder is pretrained on 133 films with clinical notes, "
        "which is far too little: chance is what to expect.",
        f"-m clip -t rsna_zs --data rsna={{data}}/rsna_layout --corpus {CORPUS}",
    ),
    Part(
        "notes",
        "Clinical notes found by their films, and films by their notes. The encoder was pretrained on most of these "
        "very pairs, there being no others, so the figure is too good; it shows that the path works.",
        f"-m clip -t ret:table:tables/notes.csv --corpus {CORPUS}",
    ),
    Part(
        "lungs",
        "Lungs outlined on 125 films by hand, divided by patient. This is what shows that the path of segmentation "
        "learns: a decoder over frozen ImageNet features.",
        "-m random,imagenet -t seg:table:tables/lungs.csv --fraction 100%",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the films")
    parser.add_argument("--results", type=Path, required=True, help="folder of the records")
    parser.add_argument("--only", help=f"comma-separated: {','.join(part.name for part in PARTS)}")
    parser.add_argument(
        "--tables", action="store_true", help="write the tables that suites/real_films.toml names"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help=f"put the tables into its block `{BLOCK}`")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [part.name for part in PARTS]
    if unknown := set(names) - {part.name for part in PARTS}:
        parser.error(f"--only: no part {', '.join(sorted(unknown))}")
    write_tables(options.data.resolve(), options.results / "tables")
    if options.tables:
        return 0
    chosen = [part for part in PARTS if part.name in names]
    texts = [measure(part, options.data.resolve(), options.results) for part in chosen]
    done = [text for text in texts if text]
    print("\n\n".join(done))
    if len(done) < len(chosen):
        return 1
    if options.write is not None:
        tables.write(options.write, BLOCK, "\n\n".join(done), TITLE)
    return 0


def write_tables(data: Path, folder: Path) -> None:
    """The tables that the commands name, with paths to the films relative to themselves."""
    folder.mkdir(parents=True, exist_ok=True)

    def below(name: str) -> str:
        return os.path.relpath(data / name, folder)

    nih = pd.read_csv(data / "nih" / "labels.csv", dtype=str, keep_default_na=False)
    findings = nih["finding_labels"].str.split("|")
    nih = nih.assign(
        image=[f"{below('nih')}/{image}" for image in nih["image"]],
        label_pneumonia=[int("Pneumonia" in own) for own in findings],
    )
    nih = nih[[bool({"Pneumonia", "No Finding"} & set(own)) for own in findings]]
    columns = ["image", "patient_id", "sex", "age", "view"]
    nih[[*columns, "label_pneumonia"]].to_csv(folder / "nih.csv", index=False)

    notes = pd.read_csv(data / "images_text" / "metadata.csv", dtype=str, keep_default_na=False)
    mask = [f"{below('images_text')}/{name}" if name else "" for name in notes["lung_mask"]]
    notes = notes.assign(image=[f"{below('images_text')}/{name}" for name in notes["file"]], mask=mask)
    columns = ["image", "patient_id", "sex", "age", "view"]
    notes[notes["text"] != ""][[*columns, "text"]].to_csv(folder / "notes.csv", index=False)
    notes[notes["mask"] != ""][[*columns, "mask"]].to_csv(folder / "lungs.csv", index=False)


def measure(part: Part, data: Path, results: Path) -> str:
    """What the page says of a part; "" if its command failed."""
    shown = f"medbench run {part.words.format(data='$MEDBENCH_TEST_DATA')} --output records"
    say(shown)
    command: Sequence[str] = [
        *(sys.executable, "-P", "-m", "medbench.cli", "run", *shlex.split(part.words.format(data=data))),
        *("--output", "records"),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "MEDBENCH_DATA"}
    done = subprocess.run(
        command, cwd=results, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        say(f"{part.name}: exit code {done.returncode}")
        return ""
    return f"### {part.name}\n\n{part.about}\n\n```bash\n{shown}\n```\n\n{done.stdout.strip()}"


if __name__ == "__main__":
    raise SystemExit(main())
