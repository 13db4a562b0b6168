"""What the tables of `methods.py` and `ablations.py` share: columns from records, and blocks of a page.

Means, deviations and what may be averaged are the leaderboard's.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from medbench.records import Record, ResultStore, fraction_name
from medbench.results import seed_order
from medbench_leaderboards.groups import current, kind
from medbench_leaderboards.summary import Summary, percent, summarise

END = "<!-- end of table -->"


# Columns.


def read(folder: Path, recipe: str) -> list[Record]:
    """Records of a folder that a table of phantoms may hold, by seed; a failed cell where it was never done."""
    store = ResultStore(folder)
    kept, _ = current([*store.records(), *store.failures()])
    wanted = ("phantom", recipe, "full sets")
    return sorted((record for record in kept if kind(record.identity) == wanted), key=seed_order)


def summary(records: Iterable[Record], task: str, fraction: float) -> Summary:
    """One encoder on one task at one label fraction, over its seeds."""
    return summarise([r for r in records if (r.identity.task, r.identity.fraction) == (task, fraction)])


def across(summaries: Sequence[Summary]) -> str:
    """Several fractions in one column: "61.3 ± 0.8 / 70.2 ± 0.4 (3 seeds)"."""
    counts = {len(one.by_seed) for one in summaries}
    if len(counts) == 1 and max(counts) > 1:
        return " / ".join(one.value for one in summaries) + f" ({max(counts)} seeds)"
    return " / ".join(one.text for one in summaries)


def over(one: Summary, other: Summary) -> str:
    """Difference of two encoders in points, seed by seed: "+15.2 ± 1.1"."""
    both = [value - other.by_seed[seed] for seed, value in one.by_seed.items() if seed in other.by_seed]
    return percent(both, signed=True) if both else "–"


def retrieval(records: Iterable[Record]) -> str:
    """Accuracy of the nearest report on the validation part of the corpus, of the epoch that was kept.

    By the engine, while it pretrained; `n/a` for an encoder without a joint space.
    """
    by_seed: dict[int | None, float] = {}
    for record in records:
        info = record.weights.info if record.weights is not None else {}
        if history := info.get("history"):
            validation = history[info["best_epoch"]]["validation"]
            if (accuracy := validation.get("image_to_report_top1")) is not None:
                by_seed[record.identity.seed] = accuracy
    if not by_seed:
        return "n/a"
    return percent(list(by_seed.values())) + (f" ({len(by_seed)} seeds)" if len(by_seed) > 1 else "")


def fractions(records: Iterable[Record], task: str) -> list[float]:
    """Label fractions that a task was run at."""
    return sorted({record.identity.fraction for record in records if record.identity.task == task})


def heading(records: Sequence[Record], task: str) -> str:
    """Of a task's column: "rsna_lp, auroc at 1% / 10% / 100%"."""
    metric = next(record.primary_metric for record in records if record.identity.task == task)
    return f"{task}, {metric} at {' / '.join(map(fraction_name, fractions(records, task)))}"


def markdown(rows: Sequence[dict[str, str]], notes: Sequence[str]) -> str:
    """The table, and what has to be said about its cells."""
    text: str = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    return text + ("\n\n" + "\n".join(f"- {note}" for note in notes) if notes else "")


# Blocks of a page.


def block(page: Path, name: str) -> str | None:
    """What a page shows between `<!-- table: NAME -->` and its end; None where it has no such block."""
    _, mark, after = page.read_text(encoding="utf-8").partition(_start(name))
    return after.split(END)[0].strip() if mark else None


def write(page: Path, name: str, text: str, title: str) -> None:
    """Replace the block of this name, or add it to the end of the page, below a heading of its own."""
    content = page.read_text(encoding="utf-8")
    shown = f"{_start(name)}\n{text}\n{END}"
    before, mark, after = content.partition(_start(name))
    if not mark:
        before, after = f"{content.rstrip()}\n\n## {title}\n\n", f"{END}\n"
    content = before + shown + after.split(END, 1)[1]
    page.write_text(content, encoding="utf-8")


def _start(name: str) -> str:
    return f"<!-- table: {name} -->"
