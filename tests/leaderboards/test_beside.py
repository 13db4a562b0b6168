"""Published figures inside the tables: in columns of their own, where ours can be compared with them."""

import csv as files
import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from medbench.records import MetricValue, Record
from medbench.results import Results
from medbench_leaderboards.beside import beside
from medbench_leaderboards.board import Board, build
from medbench_leaderboards.csv import csv_wide
from medbench_leaderboards.latex import latex
from medbench_leaderboards.markdown import page
from medbench_leaderboards.published import verdicts

MakeRecord = Callable[..., Record]
GivenResults = Callable[..., Results]

MGCA = "rsna_lp@mgca"
LIKE_THE_PAPERS: Mapping[str, Any] = {
    "source": "real",
    "recipe": "paper",
    "split": "mgca_cls",
    "corpus_dataset": "mimic_cxr",
    "method_config": {"backbone": "resnet50"},
}


@pytest.fixture
def comparable(record: MakeRecord) -> list[Record]:
    """`mgca` near its published 88.6 at 1 %, far above 89.1 at 10 %; `clip`, of which nothing is; a second task."""
    return [
        record("mgca", MGCA, 0.01, 0, 0.88, **LIKE_THE_PAPERS),
        record("mgca", MGCA, 0.1, 0, 0.97, **LIKE_THE_PAPERS),
        record("clip", MGCA, 0.01, 0, 0.80, **LIKE_THE_PAPERS),
        record("clip", MGCA, 0.1, 0, 0.81, **LIKE_THE_PAPERS),
        record("mgca", "rsna_lp", 0.01, 0, 0.85, **LIKE_THE_PAPERS),
    ]


def lines(text: str, start: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(f"| {start}")
    ]


def test_markdown_has_a_column_behind_ours(comparable: list[Record], given: GivenResults) -> None:
    text = page(build(given(comparable)))
    part = text.partition("### rsna_lp@mgca")[2].partition("\n## ")[0]
    [header] = lines(part, "method")
    assert header == [
        "method",
        r"rsna_lp@mgca 1%",
        r"rsna_lp@mgca 1%, published",
        r"rsna_lp@mgca 10%",
        r"rsna_lp@mgca 10%, published",
    ]
    [mgca], [clip] = lines(part, "mgca"), lines(part, "clip")
    assert mgca[1].startswith("**88.0** [85.5, 91.0]")
    assert (mgca[2], mgca[4]) == ("88.6 reproduced (p1)", "89.1 high (p1)")
    assert (clip[2], clip[4]) == ("none", "none")
    assert "- (p1): G2D (NeurIPS 2024) Table 4: AUROC; of MGCA (ResNet-50)" in part
    assert "differs all the same: " in part
    assert "published: what papers print, in a column of its own" in text


def test_a_task_that_nobody_published_has_no_column(comparable: list[Record], given: GivenResults) -> None:
    part = page(build(given(comparable))).partition("### rsna_lp\n")[2].partition("###")[0]
    assert "published" not in part


def test_of_one_task_alone_the_one_table_has_it(comparable: list[Record], given: GivenResults) -> None:
    text = page(build(given(comparable[:4])))
    [mgca] = lines(text, "mgca")[:1]
    assert mgca[2] == "88.6 reproduced (p1)"
    assert text.count("- (p1): ") == 1


def test_best_and_ranks_are_of_ours_alone(comparable: list[Record], given: GivenResults) -> None:
    """The published 88.6 lies above both of ours, and changes nothing about them."""
    board = build(given(comparable))
    [table] = board.tables
    bare = {place: cell.mean for place, cell in table.cells.items()}
    assert 0.886 not in bare.values()
    assert page(board).count("**88.0**") == 2  # the overview, and the task's table


def test_wide_csv_has_columns_of_their_own(comparable: list[Record], given: GivenResults) -> None:
    [content] = csv_wide(given(comparable)).values()
    rows = {line["method"]: line for line in files.DictReader(io.StringIO(content.decode()))}
    mgca = rows["mgca"]
    assert (mgca["rsna_lp@mgca 10% published"], mgca["rsna_lp@mgca 10% published verdict"]) == (
        "89.1",
        "high",
    )
    assert mgca["rsna_lp@mgca 10% published source"] == "G2D (NeurIPS 2024) Table 4"
    assert rows["clip"]["rsna_lp@mgca 10% published"] == ""
    assert "rsna_lp 1% published" not in mgca


def test_latex_sets_them_beside_ours_with_the_source_in_the_caption(
    comparable: list[Record], given: GivenResults
) -> None:
    [content] = latex(given(comparable)).values()
    text = content.decode()
    assert "\\multicolumn{4}{c}{rsna\\_lp@mgca}" in text
    assert " & 1\\% & published & 10\\% & published & " in text
    assert " & 88.6$^{p1}$ & " in text
    assert " & {\\scriptsize reproduced} & " in text and " & {\\scriptsize high} & " in text
    assert "p1: G2D (NeurIPS 2024) Table 4: AUROC" in text
    rows = [line for line in text.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert {line.count("&") for line in rows} == {6}  # 3 of ours, 2 published, the mean rank


def test_another_metric_of_ours_is_named(record: MakeRecord, given: GivenResults) -> None:
    like = {**LIKE_THE_PAPERS, "split": "image", "dataset": "siim"}
    one = record("mgca", "siim_seg", 0.01, 0, 0.40, **like)
    second = MetricValue(name="dice_mgca", value=0.497, low=0.48, high=0.51, interval="b", n=9)
    text = page(build(given([one.model_copy(update={"metrics": [*one.metrics, second]})])))
    assert "against our dice_mgca, which the table does not show" in text


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"source": "phantom"}, "those are of patients"),
        ({"recipe": "tiny"}, "the recipe tiny has another encoder and training"),
        ({"subset": "202 of 26,684"}, "those are of the full sets"),
        (
            {"method_config": {"backbone": "vit_base_patch16_224"}},
            "none is comparable with a cell of this table, see docs/published.md",
        ),
    ],
)
def test_a_table_without_any_says_why_in_one_line(
    changed: dict[str, Any], why: str, record: MakeRecord, given: GivenResults
) -> None:
    results = given([record("mgca", MGCA, 0.01, 0, 0.88, **{**LIKE_THE_PAPERS, **changed})])
    board: Board = build(results)
    [table] = board.tables
    said = f"no published figures stand beside these: {why}"
    assert beside(table, verdicts(board)).why_none == said
    text = page(board)
    assert text.count(said) == 1
    assert not [line for line in text.splitlines() if line.startswith("| method") and "published" in line]
    [tex], [wide] = latex(results).values(), csv_wide(results).values()
    assert b"no published figures stand beside these" in tex.replace(b"{-}", b"-")
    assert b"published" not in wide
