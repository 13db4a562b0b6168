"""Published figures beside ours on a leaderboard, and the reviewed map on the page about it.

    python -m medbench_leaderboards.published_tables docs/published.md

writes the blocks of that page again.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from medbench_leaderboards.published import NO_RECORD, OURS, WIDER, Verdict, figures, protocol_map

END = "<!-- end of table -->"


def beside_ours(verdicts: Sequence[Verdict], names: Mapping[str, str]) -> str:
    """A section of a Markdown leaderboard: figures that could be compared in a table, the others counted by reason.

    Args:
        verdicts: of `published.verdicts`.
        names: of our rows by their keys.
    """
    compared = [verdict for verdict in verdicts if verdict.verdict != "not comparable"]
    parts = [
        "## Published figures beside ours",
        f"`reproduced`: the published figure lies within our 95 % interval, widened by {WIDER:g} point on each side; "
        "`low`: ours lies below it; `high`: above. In percent.",
    ]
    if compared:
        parts.append(_table([line(verdict, names) for verdict in compared]))
        differs = dict.fromkeys(
            f"{v.task}, {v.dataset}, {v.metric}: {said}"
            for v in compared
            if (said := v.why.partition(". Differs all the same: ")[2])
        )
        if differs:
            parts.append(
                "What differs all the same:\n\n" + "\n".join(f"- {said}" for said in sorted(differs))
            )
    else:
        parts.append("None of ours can be compared with a published figure yet.")
    lines = list(_not_compared(verdicts))
    if lines:
        parts.append("Not comparable:\n\n" + "\n".join(f"- {count}: {why}" for count, why in lines))
    return "\n\n".join(parts)


def _not_compared(verdicts: Sequence[Verdict]) -> Iterator[tuple[int, str]]:
    """How many figures, and why, in few lines: reasons of the map are on its page."""
    reasons = Counter(verdict.why for verdict in verdicts if verdict.verdict == "not comparable")
    absent = sum(count for why, count in reasons.items() if why.startswith(NO_RECORD))
    if absent:
        yield absent, "there is no record of ours yet"
    for why, count in sorted(reasons.items()):
        if why.startswith(OURS):
            yield count, why
    others = sum(count for why, count in reasons.items() if not why.startswith((NO_RECORD, OURS)))
    if others:
        yield others, "no task or method here is the same; docs/published.md has the reasons"


def as_json(verdicts: Sequence[Verdict]) -> dict[str, list[dict[str, Any]]]:
    """The same for a JSON file: every verdict of a figure that was compared, and the others counted by reason."""
    reasons = Counter(verdict.why for verdict in verdicts if verdict.verdict == "not comparable")
    return {
        "compared": [asdict(verdict) for verdict in verdicts if verdict.verdict != "not comparable"],
        "not_comparable": [{"why": why, "figures": count} for why, count in sorted(reasons.items())],
    }


def line(verdict: Verdict, names: Mapping[str, str]) -> dict[str, str]:
    """What a table shows of a figure that was compared; `names` of our rows by key."""
    assert verdict.row is not None
    assert verdict.ours is not None  # it was compared
    return {
        "method": verdict.method,
        "ours": names[verdict.row],
        "backbone": verdict.arch,
        "task": f"{verdict.task}, {verdict.dataset}",
        "labels": verdict.fraction,
        "metric": verdict.metric,
        "published": verdict.published,
        "ours [95 % interval]": f"{verdict.ours:.1f} [{verdict.low:.1f}, {verdict.high:.1f}]",
        "verdict": f"**{verdict.verdict}**" + (f" ({said})" if (said := _marked(verdict)) else ""),
        "source": verdict.source,
    }


def _marked(verdict: Verdict) -> str:
    """As in "ours is marked contaminated"; "" without marks."""
    return next(
        (part for part in verdict.why.split(". ")[0].split("; ") if part.startswith("ours is marked ")), ""
    )


# The page about the map.


def blocks() -> dict[str, str]:
    """What docs/published.md holds between its markers, by name."""
    return {"sources": sources(), "methods": methods(), "protocols": protocols()}


def sources() -> str:
    """Figures by where they were read, and how many of them the map lets be compared."""
    reviewed = protocol_map()
    read: Counter[str] = Counter()
    may: Counter[str] = Counter()
    for figure in figures():
        source = re.split(r" Table | results/", figure.source)[0]
        entry, method = reviewed.protocols.get(figure.key), reviewed.methods.get(figure.method)
        read[source] += 1
        may[source] += entry is not None and entry.ours != "" and method is not None and method.ours != ""
    rows = [
        {"read in": source, "figures": str(count), "comparable": str(may[source])}
        for source, count in sorted(read.items())
    ]
    rows.append({"read in": "all", "figures": str(read.total()), "comparable": str(may.total())})
    return _table(rows)


def methods() -> str:
    """Every published name: which method it is here, its paper, figures, and how many of them may be compared."""
    reviewed = protocol_map()
    papers: dict[str, set[str]] = defaultdict(set)
    read: Counter[str] = Counter()
    may: Counter[str] = Counter()
    for figure in figures():
        entry, method = reviewed.protocols.get(figure.key), reviewed.methods.get(figure.method)
        papers[figure.method].add(figure.paper)
        read[figure.method] += 1
        may[figure.method] += (
            entry is not None and entry.ours != "" and method is not None and method.ours != ""
        )
    return _table(
        [
            {
                "published as": name,
                "paper": "; ".join(sorted(papers[name])),
                "here": f"`{known.ours}`" if (known := reviewed.methods[name]).ours else "–",
                "figures": str(read[name]),
                "comparable": str(may[name]),
                "why": known.reason,
            }
            for name in sorted(read, key=lambda name: (-may[name], name))
        ]
    )


def protocols() -> str:
    """The reviewed map: combinations that share an entry in one line, those that are comparable first."""
    reviewed = protocol_map().protocols
    count = Counter(figure.key for figure in figures())
    groups: dict[int, list[tuple[str, str, str, str]]] = defaultdict(list)
    for key, entry in reviewed.items():
        if key in count:
            groups[id(entry)].append(key)
    rows = []
    for keys in groups.values():
        entry = reviewed[keys[0]]
        rows.append(
            {
                "protocol": _both(keys, 0),
                "task": _both(keys, 1),
                "set": _both(keys, 2),
                "metric": _both(keys, 3),
                "figures": str(sum(count[key] for key in keys)),
                "here": f"`{entry.ours}`, `{entry.our_metric}`, split `{entry.split}`"
                if entry.ours
                else "not comparable",
                "why": entry.reason + (f". Differs all the same: {entry.differs}" if entry.differs else ""),
            }
        )
    return _table(sorted(rows, key=lambda row: row["here"] == "not comparable"))


def fill(text: str) -> str:
    """The page with its blocks made again."""
    for name, made in blocks().items():
        start = f"<!-- table: {name} -->"
        before, mark, after = text.partition(start)
        if not mark or END not in after:
            raise ValueError(f"expected {start} and {END} in the page, and found one of them at most.")
        text = f"{before}{start}\n{made}\n{END}{after.split(END, 1)[1]}"
    return text


def _both(keys: Sequence[tuple[str, str, str, str]], place: int) -> str:
    return "; ".join(dict.fromkeys(key[place] for key in keys))


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    escaped = [{name: text.replace("|", "\\|") for name, text in row.items()} for row in rows]
    text: str = tabulate(escaped, headers="keys", tablefmt="github", disable_numparse=True)
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
