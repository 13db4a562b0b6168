"""The page of published numbers beside ours."""

from collections.abc import Sequence
from typing import Any

from medbench_leaderboards.board import Board
from medbench_leaderboards.published import Verdict
from medbench_leaderboards.site.names import anchor, method_page
from medbench_leaderboards.site.shown import Badge

MEANING = {
    "reproduced": "the published value lies within our interval widened by one point",
    "low": "ours is lower than published",
    "high": "ours is higher than published",
    "not comparable": "another protocol, metric or set, or nothing of ours; the table says why",
}
"""What a verdict means."""


def published(board: Board, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What the template is filled with."""
    rows = {(table.name, row.key): row for table in board.tables for row in table.rows}
    lines = []
    for verdict in verdicts:
        row = rows.get((verdict.table or "", verdict.row or ""))
        link = ""
        if row is not None:
            link = f"{method_page(row.method)}#{anchor(verdict.table or '', row.key, verdict.column or '')}"
        badge = Badge(verdict.verdict.replace(" ", "-"), verdict.verdict, MEANING.get(verdict.verdict, ""))
        lines.append((verdict, link, badge, _ours(verdict), _find(verdict)))
    counts = {name: sum(1 for verdict in verdicts if verdict.verdict == name) for name in MEANING}
    lines.sort(key=lambda line: line[0].verdict == "not comparable")  # those last, else in the order given
    return {"lines": lines, "meaning": MEANING, "counts": counts}


def _ours(verdict: Verdict) -> tuple[str, str]:
    value = "" if verdict.ours is None else f"{verdict.ours:.1f}"
    if verdict.low is None or verdict.high is None:
        return value, ""
    return value, f"[{verdict.low:.1f}, {verdict.high:.1f}]"


def _find(verdict: Verdict) -> str:
    said = (verdict.method, verdict.paper, verdict.arch, verdict.task, verdict.dataset, verdict.protocol)
    return " ".join((*said, verdict.fraction, verdict.metric, verdict.verdict, verdict.why)).lower()
