"""The board in LaTeX: one file a table, to be read by an input command. Needs the package booktabs and no other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from medbench.cells import SOURCES
from medbench.records import fraction_name
from medbench.results import Results
from medbench_leaderboards import wording
from medbench_leaderboards.beside import LEGEND, Beside, beside
from medbench_leaderboards.board import Cell, Column, Row, Table, build
from medbench_leaderboards.published import verdicts

WIDE = 5
"""With more columns than this a table goes over both columns of a page."""

_SYMBOLS = {"†": r"\dagger", "§": r"\S", "‡": r"\ddagger", "~": r"\sim"}

_CELL = (
    "Percent: mean ± standard deviation over seeds (without ± of one seed); below it the 95 % interval over test "
    "patients. Best mean of a column bold, second underlined. Raised: rank, 1 + the number of methods that are better "
    "beyond noise (p < 0.05, adjusted by Holm over all comparisons of the table), with = where another one of this "
    "rank does not differ beyond noise."
)


@dataclass(frozen=True)
class _Slot:
    """A column as it is set: ours, or beside it what was published."""

    column: Column
    published: bool


def latex(results: Results) -> Mapping[str, bytes]:
    """`latex/<table>.tex`: methods by tasks, label fractions side by side below their task."""
    board = build(results)
    found = verdicts(board)
    return {f"latex/{table.name}.tex": page(table, beside(table, found)).encode() for table in board.tables}


def page(table: Table, published: Beside) -> str:
    """One table as a float with caption and label."""
    slots = [
        _Slot(column, of_paper)
        for column in table.columns
        for of_paper in ((False, True) if published.marks(column) else (False,))
    ]
    kind = "table*" if len(slots) > WIDE else "table"
    groups = [
        list(own) for _, own in groupby(slots, key=lambda slot: (slot.column.task, "#" in slot.column.name))
    ]
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{{kind}}}[t]",
        "\\centering\\small",
        f"\\caption{{{_caption(table, published)}}}",
        f"\\label{{tab:{_label(table.name)}}}",
        f"\\begin{{tabular}}{{l{'c' * (len(slots) + len(wording.rankings(table)))}}}",
        "\\toprule",
        *_head(table, groups),
        "\\midrule",
        *(line for row in table.rows for line in _row(table, row, slots, published)),
        "\\bottomrule",
        "\\end{tabular}",
        f"\\end{{{kind}}}",
    ]
    return "\n".join(lines) + "\n"


def _head(table: Table, groups: list[list[_Slot]]) -> Iterator[str]:
    tasks, rules, fractions, at = [], [], [], 2
    for own in groups:
        first = own[0].column
        alone = {slot.column.key for slot in own} == {first.key} and (not first.trains or "#" in first.name)
        tasks.append(f"\\multicolumn{{{len(own)}}}{{c}}{{{escape(first.name if alone else first.task)}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + len(own) - 1}}}")
        fractions += [
            "published" if slot.published else "" if alone else escape(_below(slot.column)) for slot in own
        ]
        at += len(own)
    ranks = [
        name.partition(", ") for name, _ in wording.rankings(table)
    ]  # "mean rank", "image tasks" below it
    yield f" & {' & '.join(tasks)} & {' & '.join(name if below else '' for name, _, below in ranks)} \\\\"
    yield "".join(rules)
    yield f"method & {' & '.join(fractions)} & {' & '.join(below or name for name, _, below in ranks)} \\\\"


def _below(column: Column) -> str:
    """What stands below the task: the fraction, and what tells apart columns that share it."""
    own = column.name.removeprefix(column.task).strip()
    return own or fraction_name(column.fraction)


def _row(table: Table, row: Row, slots: Sequence[_Slot], published: Beside) -> Iterator[str]:
    values, intervals = [], []
    for slot in slots:
        if slot.published:
            figures = published.of(row, slot.column)
            values.append(", ".join(f"{escape(one.published)}$^{{{mark}}}$" for mark, one in figures))
            intervals.append(_small(", ".join(one.verdict for _, one in figures)))
        else:
            cell = table.cells[row.key, slot.column.key]
            values.append(_value(table, slot.column, cell))
            intervals.append(_small(wording.interval(cell)))
    for _, ranking in wording.rankings(table):
        rank, _, held = wording.mean_rank(table, row, ranking).partition(" ")
        values.append(escape(rank))
        intervals.append(_small(held))
    yield f"{escape(wording.badged(row))} & {' & '.join(values)} \\\\"
    yield f" & {' & '.join(intervals)} \\\\"


def _value(table: Table, column: Column, cell: Cell) -> str:
    if cell.mean is None:
        return "--" if cell.status == "missing" else escape(cell.status)
    text = wording.percent(cell.mean)
    if cell.row in wording.best(table, column):
        text = f"\\textbf{{{text}}}"
    elif cell.row in wording.best(table, column, 2):
        text = f"\\underline{{{text}}}"
    if cell.sd is not None:
        text += f" $\\pm$ {wording.percent(cell.sd)}"
    raised = wording.rank(cell).strip("()") + "".join(_SYMBOLS[symbol] for symbol in wording.symbols(cell))
    return f"{text}$^{{{raised}}}$" if raised else text


def _small(text: str) -> str:
    return f"{{\\scriptsize {escape(text)}}}" if text else ""


def _caption(table: Table, published: Beside) -> str:
    source = SOURCES[table.source].rstrip(".")
    about = f"{table.source}, recipe {table.recipe}, {table.size}"
    said = [about, f"{source[0].upper()}{source[1:]}", _CELL.rstrip(".")]
    said += [*wording.marks(table), *wording.statistics(table)]
    said += [published.why_none or LEGEND, *(f"{mark}: {about}" for mark, about in published.sources.items())]
    return escape(". ".join(said) + ".")


def _label(name: str) -> str:
    """A label may hold letters, digits and hyphens."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name)


_ESCAPES = {
    "\\": "\\textbackslash{}",
    **{c: f"\\{c}" for c in "{}$&#%_"},
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
    "`": "\\textasciigrave{}",
    # After the end of a row these two would be options of it; of ligatures only letters are wanted.
    **{c: f"{{{c}}}" for c in "[]*-'?!"},
    "±": "$\\pm$",
    "†": "$\\dagger$",
    "‡": "$\\ddagger$",
    "§": "\\S{}",
    "–": "--",
}


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_ESCAPES.get(c, c) for c in wording.plain(text))
