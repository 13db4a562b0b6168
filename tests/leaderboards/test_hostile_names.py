"""Any order of records gives the same bytes, and no name or text of a record is more than text in any format."""

import csv
import io
import json
import random
import re
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medbench.records import Record
from medbench.results import Results
from medbench_leaderboards.beside import beside
from medbench_leaderboards.board import Board, build
from medbench_leaderboards.csv import csv as csv_long
from medbench_leaderboards.csv import csv_wide
from medbench_leaderboards.json import json as as_json
from medbench_leaderboards.latex import escape as escape_latex
from medbench_leaderboards.latex import latex, page
from medbench_leaderboards.markdown import escape, markdown
from medbench_leaderboards.wording import badged

MakeRecord = Callable[..., Record]
Given = Callable[..., Results]

FORMATS = (markdown, csv_long, csv_wide, as_json, latex)

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b | c",
    "[click](javascript:alert(1))",
    "![](http://example.org/x.png)",
    "`rm -rf ~`",
    "$(touch /tmp/x); `id`",
    '=HYPERLINK("http://example.org")',
    "@SUM(A1)",
    "\\input{/etc/passwd}",
    "\\\\[1cm] {} } { % $ # & _ ^ ~",
    "two\nlines\r\nand\ttabs",
    "**bold** _it_ ~~no~~",
    "# heading",
    "1. list",
    "‮right to left\u200b",
    "half \ud800 of a pair",
    "&lt;b&gt; &amp;",
    "'\"",
]

texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20))
once = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def of(record: MakeRecord, name: str, **more: Any) -> list[Record]:
    """Some records with one text wherever a record has any."""
    fields = {
        "fidelity": name,
        "method_owner": name,
        "split": name,
        "split_leak": name,
        "subset": name,
    } | more
    return [
        record(name, "rsna_lp", value=0.7, corpus_dataset=name, **fields),
        record("clip", name, fraction=0.1, value=0.8, dataset=name, **more),
        record(name, name, fraction=0.1, status="failed", error=name, dataset=name, **more),
        record("clip", "rsna_lp", status="skipped", reason=name, **fields),
    ]


@settings(once, max_examples=4)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_records_changes_no_byte(seed: int, board: list[Record], given: Given) -> None:
    shuffled = list(board)
    random.Random(seed).shuffle(shuffled)
    one, other = given(shuffled), given(board)
    for make in FORMATS:
        assert make(one) == make(other)


@once
@given(name=texts)
def test_markdown_shows_names_as_text(name: str, record: MakeRecord, given: Given) -> None:
    files = markdown(given(of(record, name), base="../results"))
    text = files["leaderboard.md"].decode()
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)  # code is shown as it is
    outside = re.sub(r"\\[!-/:-@\[-`{-~]", "", outside)  # and so is what is escaped
    assert not re.search(r"[<>]", outside.replace("p < 0.05", ""))
    links = re.findall(r"\]\(([^)]*)\)", outside)
    assert all(link.startswith("../results/") and re.fullmatch(r"[\w./%~-]+", link) for link in links)
    assert "![" not in outside
    columns = 0
    for line in text.splitlines():
        bars = len(re.findall(r"(?<!\\)\|", line.replace("\\\\", "")))
        if line.startswith("|"):
            columns = columns or bars
            assert bars == columns, line
        else:
            columns = 0


@once
@given(name=texts)
def test_csv_holds_names_and_no_formulas(name: str, record: MakeRecord, given: Given) -> None:
    results = given(of(record, name))
    for content in (*csv_long(results).values(), *csv_wide(results).values()):
        lines = list(csv.reader(io.StringIO(content.decode(), newline="")))
        assert {len(line) for line in lines} == {len(lines[0])}
        for value in (value for line in lines for value in line if value):
            assert value[0] not in "=@\t\r" and "\n" not in value
            assert value[0] not in "+-" or re.fullmatch(r"-?[\d.e+-]+", value)


@once
@given(name=texts)
def test_json_gives_names_back(name: str, record: MakeRecord, given: Given) -> None:
    content = json.loads(as_json(given(of(record, name)))["leaderboard.json"])
    assert name in {row["method"] for table in content["tables"] for row in table["rows"]}


@once
@given(name=texts)
def test_latex_sets_names_as_text(name: str, record: MakeRecord, given: Given) -> None:
    results = given(of(record, name))
    for table, content in zip(build(results).tables, latex(results).values(), strict=True):
        text = content.decode()
        read_latex(text)
        assert all(f"\n{escape_latex(badged(row))} & " in text for row in table.rows)


def test_latex_of_a_whole_board(made_board: Board) -> None:
    for table in made_board.tables:
        text = page(table, beside(table, ()))
        read_latex(text)
        assert "\\textbf{" in text
    first = page(made_board.tables[0], beside(made_board.tables[0], ()))
    assert "\\underline{" in first and "2=}$" in first and "\\dagger" in first


COMMANDS = {
    *("begin", "end", "centering", "small", "caption", "label", "toprule", "midrule", "bottomrule"),
    *("multicolumn", "cmidrule", "textbf", "underline", "scriptsize", "pm", "dagger", "ddagger", "sim", "S"),
    *("textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar"),
    *("textquotedbl", "textasciigrave"),
}


def read_latex(text: str) -> None:
    """A strict reader: groups and mathematics are closed, rows have the columns that are declared, and every command is
    one of ours."""
    assert text.startswith("% \\usepackage{booktabs}\n")
    body = text.split("\n", 1)[1]
    tokens = re.findall(r"\\[a-zA-Z]+|\\.|[{}$&%#^_~]|\\\Z|[^\\{}$&%#^_~]+", body, flags=re.DOTALL)
    assert "".join(tokens) == body
    depth, mathematics, opened = 0, False, []
    environments = re.findall(r"\\(begin|end)\{([a-z*]+)\}", body)
    for kind, name in environments:
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    for token in tokens:
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            assert depth >= 0
        elif token == "$":
            mathematics = not mathematics
        elif token == "^":
            assert mathematics
        elif token.startswith("\\") and token[1:].isalpha():
            assert token[1:] in COMMANDS, token
        elif token.startswith("\\"):
            assert token[1] in "{}$&#%_\\,", token
        else:
            assert token not in "%#_~", token
    assert depth == 0 and not mathematics
    columns = re.search(r"\\begin\{tabular\}\{(l?c+)\}", body)
    assert columns
    inside = body.split(columns[0])[1].split("\\end{tabular}")[0]
    inside = re.sub(r"\\(top|mid|bottom)rule|\\cmidrule\(lr\)\{\d+-\d+\}", "", inside)
    for row in inside.split("\\\\\n"):
        if row.strip():
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
            assert len(re.findall(r"(?<!\\)&", row)) + 1 + spanned == len(columns[1]), row
            assert row.strip()[0] not in "[*", row


@pytest.mark.parametrize("character", string.punctuation)
def test_markdown_keeps_every_character(character: str) -> None:
    shown = escape(f"{character}a{character}b {character} c{character}")
    assert (
        re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown) == f"{character}a{character}b {character} c{character}"
    )


def test_names_are_words_in_commands(record: MakeRecord, given: Given) -> None:
    import shlex

    name = "clip; rm -rf ~ `id` $(id)"
    table = build(given([record(name), record("place", fraction=0.1)])).tables[0]
    commands = [shlex.split(one.command) for one in table.missing]
    assert [words[words.index("--method") + 1] for words in commands] == [name, "place"]
