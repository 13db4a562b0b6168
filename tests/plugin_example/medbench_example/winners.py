"""A leaderboard in one function: who is not beaten by anyone beyond noise, column by column."""

from medbench_leaderboards.board import build


def winners(results):
    lines = []
    for table in build(results).tables:
        names = {row.key: row.name for row in table.rows}
        for column in table.columns:
            cells = [table.cells[row.key, column.key] for row in table.rows]
            first = sorted(names[cell.row] for cell in cells if cell.rank == 1)
            lines.append(f"{table.name}, {column.name}: {', '.join(first) or 'nothing was compared'}")
    return {"winners.txt": "".join(f"{line}\n" for line in lines).encode()}
