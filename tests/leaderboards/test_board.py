"""The board: what follows from records, before any format."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medbench.plugins import load_catalogue
from medbench.records import Record
from medbench.results import Results
from medbench.statistics.paired import Difference, compare
from medbench_leaderboards import wording
from medbench_leaderboards.assemble import _ranked
from medbench_leaderboards.board import Board, Cell, Comparison, Table, build
from medbench_leaderboards.wording import mean_rank, rankings

MakeRecord = Callable[..., Record]


def cell(table: Table, row: str, column: str) -> Cell:
    """By names."""
    rows, columns = {r.name: r.key for r in table.rows}, {c.name: c.key for c in table.columns}
    return table.cells[rows[row], columns[column]]


def test_what_differs_in_kind_has_a_table_of_its_own(made_board: Board) -> None:
    assert [table.name for table in made_board.tables] == ["phantom-tiny-full", "real-tiny-subsets"]


def test_every_place_has_a_cell_and_each_seed_its_record(made_board: Board) -> None:
    for table in made_board.tables:
        assert len(table.cells) == len(table.rows) * len(table.columns)
        for one in table.cells.values():
            for seed in one.seeds:
                assert made_board.records[seed.cell_id].identity.seed == seed.seed
                assert made_board.paths[seed.cell_id] == seed.path


def test_a_cell_says_how_it_stands(made_board: Board) -> None:
    table = made_board.tables[0]
    assert cell(table, "mgca", "rsna_lp 1%").status == "n/a"
    assert cell(table, "place", "rsna_knn 100%").status == "failed"
    assert cell(table, "mgca", "rsna_knn 100%").status == "missing"
    assert cell(table, "clip", "rsna_knn 100%").marks == ("small",)
    assert cell(table, "mgca", "rsna_lp 10%").marks == ("contaminated", "one seed")
    repeat = cell(table, "clip", "rsna_lp 10%")
    assert repeat.marks == ("repeat",)
    assert [seed.repeats for seed in repeat.seeds] == [None, None, 1]


def test_comparisons_are_those_of_compare(results_folder: Path, made_board: Board) -> None:
    results = Results.read(results_folder, load_catalogue(third_party=False))
    records = {record.cell_id: record for record in results.records}
    compared = 0
    for table in made_board.tables:
        for one in table.comparisons:
            sides = [
                [records[seed.cell_id] for seed in table.cells[row, one.column].seeds]
                for row in (one.a, one.b)
            ]
            expected = compare(results, *sides)
            for name in ("value", "low", "high", "p", "se_test", "se_training", "freedom"):
                mine, theirs = getattr(one.difference, name), getattr(expected, name)
                assert mine == (None if theirs is None else pytest.approx(theirs, rel=1e-6, abs=1e-12)), name
            assert one.difference.test == expected.test
            assert one.difference.seeds == expected.seeds
            compared += 1
    assert compared == 3 + 6 + 6 + 1 + 1


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_who_can_be_told_from_nobody_is_not_among_the_best(made_board: Board, higher_is_better: bool) -> None:
    """The seeds of the last disagree so much that no difference to him is beyond noise."""
    table = made_board.tables[0]
    column = replace(table.columns[0], higher_is_better=higher_is_better)
    sign = 1 if higher_is_better else -1
    one = table.cells[table.rows[0].key, column.key]
    means = {"first": 0.9, "second": 0.8, "last": 0.5}
    cells = {(row, column.key): replace(one, row=row, mean=sign * mean) for row, mean in means.items()}
    comparisons = [
        Comparison(a, b, column.key, Difference(value=sign * (means[a] - means[b])), p)
        for a, b, p in (("first", "second", 0.01), ("first", "last", 0.2), ("last", "second", 0.5))
    ]
    ranked = _ranked(cells, [column], comparisons)
    assert [(c.rank, c.tied) for c in ranked.values()] == [(1, False), (2, True), (2, True)]


def test_one_rank_is_no_tie_where_the_difference_is_beyond_noise(made_board: Board) -> None:
    """The last is beaten by the second alone, so both count one that is better."""
    table = made_board.tables[0]
    column, one = table.columns[0], table.cells[table.rows[0].key, table.columns[0].key]
    means = {"first": 0.9, "second": 0.8, "last": 0.5}
    cells = {(row, column.key): replace(one, row=row, mean=mean) for row, mean in means.items()}
    comparisons = [
        Comparison(a, b, column.key, Difference(value=means[a] - means[b]), p)
        for a, b, p in (("first", "second", 0.01), ("first", "last", 0.2), ("last", "second", 0.01))
    ]
    ranked = _ranked(cells, [column], comparisons)
    assert [(c.rank, c.tied) for c in ranked.values()] == [(1, False), (2, False), (2, False)]


def test_differences_with_one_seed_are_counted_apart(made_board: Board) -> None:
    said = " ".join(wording.statistics(made_board.tables[0]))
    assert "of 3 differences between two methods are beyond noise" in said
    assert (
        " of 13 further differences are beyond the noise of the test patients; training noise is not counted"
        in said
    )


def test_what_a_method_can_not_serve_is_not_missing(
    record: Callable[..., Record], given: Callable[..., Results]
) -> None:
    records = [record("clip", "rsna_zs", 1.0), record("clip"), record("imagenet", kind="untrained")]
    [table] = build(given(records)).tables
    none = cell(table, "imagenet", "rsna_zs 100%")
    assert none.status == "n/a"
    assert none.notes == ("n/a: imagenet provides no embedding, text.pooled, which rsna_zs needs",)
    assert table.missing == ()


@pytest.mark.parametrize(
    ("row", "command", "why"),
    [
        ({"split": "clean"}, "--split clean", ""),
        ({"split": "lists:mine@0123"}, "--split lists:DIR", ""),
        ({"method_config": {"temperature": 0.5}}, "--set method.temperature=0.5", ""),
        ({"method_config": {"gone": 1}}, "", "settings of clip that its recipe `tiny` here does not have"),
    ],
)
def test_a_command_has_what_the_row_and_the_column_set(
    row: dict[str, object],
    command: str,
    why: str,
    record: Callable[..., Record],
    given: Callable[..., Results],
) -> None:
    [table] = build(
        given([record("clip", seed=0, **row), record("clip", fraction=0.1, seed=1, **row)])
    ).tables
    assert len(table.missing) == 2
    for one in table.missing:
        assert one.command.endswith(command)
        assert bool(one.command) == bool(command)
        assert one.why.startswith(why)


def test_methods_without_text_are_ranked_over_the_tasks_that_they_can_serve(
    record: MakeRecord, given: Callable[..., Results]
) -> None:
    """`random` has no text encoder: no mean rank over all tasks, and one over the others, in which it is second."""
    values = {
        "clip": {"rsna_lp": 0.9, "rsna_knn": 0.6, "rsna_zs": 0.7},
        "place": {"rsna_lp": 0.8, "rsna_knn": 0.5, "rsna_zs": 0.8},
        "random": {"rsna_lp": 0.85, "rsna_knn": 0.55},
    }
    records = [record(m, task, 1.0, 0, value) for m, own in values.items() for task, value in own.items()]
    [table] = build(given(records)).tables
    names = {row.key: row.name for row in table.rows}
    ranked = {names[rank.row]: rank.value for rank in table.ranking.ranks}
    assert ranked == pytest.approx({"clip": 4 / 3, "place": 5 / 3})
    images = table.image_ranking
    assert images is not None
    assert {names[rank.row]: rank.value for rank in images.ranks} == {"clip": 1, "random": 2, "place": 3}
    assert (images.tasks, table.ranking.tasks) == (2, 3)
    assert images.critical_difference is not None  # of three methods; over all tasks there are two
    assert table.ranking.critical_difference is None


def test_a_second_ranking_is_made_only_where_it_says_something_else(
    record: MakeRecord, given: Callable[..., Results]
) -> None:
    for tasks in (["rsna_lp", "rsna_knn"], ["rsna_zs"], ["somebodys_task"]):
        [table] = build(given([record("clip", task, 1.0, 0, 0.8) for task in tasks])).tables
        assert table.image_ranking is None


def test_who_lacks_a_cell_of_an_image_task_has_no_mean_rank_there(
    record: MakeRecord, given: Callable[..., Results]
) -> None:
    records = [record("clip", task, 1.0, 0, 0.8) for task in ("rsna_lp", "rsna_knn", "rsna_zs")]
    [table] = build(given([*records, record("random", "rsna_lp", 1.0, 0, 0.5)])).tables
    images = table.image_ranking
    assert images is not None
    assert [rank.row for rank in images.ranks] == [table.rows[0].key]
    lacking = next(row for row in table.rows if row.name == "random")
    assert [mean_rank(table, lacking, ranking) for _, ranking in rankings(table)] == ["1/3", "1/2"]
