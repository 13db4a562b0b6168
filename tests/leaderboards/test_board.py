"""The board: what follows from records, before any format."""

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
