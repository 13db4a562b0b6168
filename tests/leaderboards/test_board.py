"""The board: what follows from records, before any format."""

from pathlib import Path

import pytest

from medbench.plugins import load_catalogue
from medbench.results import Results
from medbench.statistics.paired import compare
from medbench_leaderboards.board import Board, Cell, Table


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
