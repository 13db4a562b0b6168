"""Results -> the board: rows, columns, cells, and what follows from comparing them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from medbench.metrics.bootstrap import logit_bounds
from medbench.plugins import Catalogue, load_catalogue
from medbench.records import Identity, Record, fraction_name
from medbench.results import Results, seed_order
from medbench.statistics.holm import holm
from medbench.statistics.paired import Side, differences, side
from medbench.statistics.ranks import critical_difference, mean_ranks
from medbench_leaderboards.board import (
    Board,
    Cell,
    Column,
    Comparison,
    MeanRank,
    Missing,
    Ranking,
    Row,
    Seed,
    Table,
    Whole,
)
from medbench_leaderboards.contamination import Overlaps, contamination
from medbench_leaderboards.groups import (
    Kind,
    by_place,
    current,
    distinct,
    kind,
)
from medbench_leaderboards.missing import changed, command, named_split, unserved, without_text
from medbench_leaderboards.summary import Summary, summarise
from medbench_leaderboards.wording import beyond_noise

COMPARED: Final = 250_000
"""Pairs of rows, over all columns, up to which those of a table are compared."""

Floats = npt.NDArray[np.float64]
_Key = tuple[str, str]


def assemble(results: Results) -> Board:
    """The board of a results folder."""
    everything = distinct([*results.records, *results.failures])
    kept, left_out = current(everything)
    tables: dict[Kind, list[Record]] = defaultdict(list)
    for record in kept:
        tables[kind(record.identity)].append(record)
    catalogue = results.catalogue or load_catalogue(third_party=False)
    overlaps = Overlaps(catalogue.datasets)
    return Board(
        tables=tuple(_table(results, catalogue, overlaps, about, tables[about]) for about in sorted(tables)),
        left_out=tuple(left_out),
        records=Whole(results, {record.cell_id: record for record in everything}),
        paths={record.cell_id: results.path(record) for record in everything},
        base=results.base,
    )


def _table(
    results: Results, catalogue: Catalogue, overlaps: Overlaps, about: Kind, records: Sequence[Record]
) -> Table:
    by_row, by_column = _grouped(results, records)
    rows, columns = _rows(by_row), _columns(by_column)
    places = by_place(results, records)
    summaries = {
        (row.key, column.key): _summary(catalogue, row, column, places.get((about, row.key, column.key), []))
        for row in rows
        for column in columns
    }
    compared = _pairs(columns, summaries) <= COMPARED
    sides = {
        place: side(results, s.counted) if compared else Side(np.array(list(s.by_seed.values()), np.float64))
        for place, s in summaries.items()
        if s.counted
    }
    comparisons = _comparisons(rows, columns, sides) if compared else []
    ranking = _ranking(rows, columns, sides)
    order = {rank.row: rank.value for rank in ranking.ranks}
    rows.sort(key=lambda row: (order.get(row.key, np.inf), row.name))
    order = {row.key: number for number, row in enumerate(rows)}
    ranking = replace(ranking, ranks=tuple(sorted(ranking.ranks, key=lambda rank: order[rank.row])))
    of_images = [column for column in columns if without_text(catalogue, column.task)]
    image_ranking = _ranking(rows, of_images, sides)
    cells = {
        place: _cell(results, overlaps, place, summary, sides.get(place), compared)
        for place, summary in summaries.items()
    }
    source, recipe, size = about
    return Table(
        source=source,
        recipe=recipe,
        size=size,
        name=f"{source}-{recipe}-{size.split(' ')[0]}",
        rows=tuple(rows),
        columns=tuple(columns),
        cells=_ranked(cells, columns, comparisons),
        comparisons=tuple(comparisons),
        ranking=ranking,
        image_ranking=None if image_ranking.columns in ((), ranking.columns) else image_ranking,
        missing=tuple(_missing(catalogue, rows, columns, summaries, by_column)),
        notes=tuple(_notes(rows, columns, sides, compared)),
    )


# Rows and columns.


def _grouped(
    results: Results, records: Sequence[Record]
) -> tuple[dict[str, list[Record]], dict[str, list[Record]]]:
    """By row key, and by column key; each list by seed."""
    rows: dict[str, list[Record]] = defaultdict(list)
    columns: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=seed_order):
        row, column = results.keys(record)
        rows[row].append(record)
        columns[column].append(record)
    return rows, columns


def _rows(groups: Mapping[str, Sequence[Record]]) -> list[Row]:
    """By name."""
    names = _names({key: own[0].identity.method for key, own in groups.items()})
    rows = []
    for key, own in groups.items():
        identity = own[0].identity
        rows.append(
            Row(
                key=key,
                name=names[key],
                method=identity.method,
                fidelity=identity.fidelity,
                owner=identity.method_owner,
                about=_about_row(identity),
                identity=identity,
            )
        )
    return sorted(rows, key=lambda row: row.name)


def _columns(groups: Mapping[str, Sequence[Record]]) -> list[Column]:
    """By task and fraction."""
    trains = {
        key: any(r.counts.train or r.identity.fraction != 1 for r in own) for key, own in groups.items()
    }
    own_names = {}
    for key, own in groups.items():
        identity = own[0].identity
        own_names[key] = identity.task + (f" {fraction_name(identity.fraction)}" if trains[key] else "")
    names = _names(own_names)
    columns = []
    for key, own in groups.items():
        first = own[0]
        identity = first.identity
        metric = next((r.primary for r in own if r.primary is not None), None)
        data = identity.dataset + (f", subset: {identity.subset}" if identity.subset else "")
        better = metric is None or metric.higher_is_better
        test = max(record.counts.test for record in own)
        columns.append(
            Column(
                key=key,
                name=names[key],
                task=identity.task,
                version=identity.task_version,
                fraction=identity.fraction,
                trains=trains[key],
                dataset=identity.dataset,
                subset=identity.subset,
                split=identity.split,
                test=test,
                metric=first.primary_metric,
                metric_version=metric.version if metric is not None else 0,
                higher_is_better=better,
                about=f"version {identity.task_version}: {first.primary_metric} in %, "
                f"{'higher' if better else 'lower'} is better; {data}; split {identity.split}, {test:,} test samples",
            )
        )
    return sorted(columns, key=lambda column: (column.task, column.fraction, column.key))


def _names(names: Mapping[str, str]) -> dict[str, str]:
    """By key; names that several share get a piece of their key as well."""
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else f"{name} #{key[:6]}" for key, name in names.items()}


def _about_row(identity: Identity) -> str:
    weights = identity.weights
    text = f"checkpoint {weights.key[:12]}" if weights.kind == "checkpoint" else weights.kind
    if weights.corpus is not None:
        text += f" on {weights.corpus.source} {weights.corpus.dataset}"
        text += f", subset: {weights.corpus.subset}" if weights.corpus.subset else ""
    return f"{text}; precision {identity.precision}; {identity.method_owner}"


# Cells.


def _summary(catalogue: Catalogue, row: Row, column: Column, records: Sequence[Record]) -> Summary:
    """Of a place; one that the method can not serve is not missing."""
    why = "" if records else unserved(catalogue, row.method, column.task)
    return Summary("n/a", notes=[f"n/a: {why}"]) if why else summarise(records)


def _cell(
    results: Results, overlaps: Overlaps, place: _Key, summary: Summary, found: Side | None, compared: bool
) -> Cell:
    notes, marks = list(summary.notes), []
    low, high = (None, None)
    if len(summary.counted) == 1:
        [only] = summary.counted
        if only.primary is not None:  # what the record says
            low, high = only.primary.low, only.primary.high
        if only.identity.seed is not None:
            marks.append("one seed")
    elif found is not None:
        low, high = found.interval(_interval(summary.counted))
    if found is not None and found.draws is None and compared:
        mean = "no interval of the mean, and " if len(summary.counted) > 1 else ""
        notes.append(f"no bootstrap draws: {mean}compared with nothing")
    if any(results.small(record) for record in summary.counted):
        marks.append("small")
    if summary.repeated:
        marks.append("repeat")
    why = contamination(summary.counted, overlaps)
    if why:
        marks.append("contaminated")
        notes += [f"contaminated: {line}" for line in why]
    return Cell(
        row=place[0],
        column=place[1],
        status=summary.status,
        seeds=tuple(_seed(results, record, summary) for record in summary.records),
        mean=summary.mean,
        sd=summary.deviation,
        low=low,
        high=high,
        delong=_delong(summary, found),
        small="small" in marks,
        marks=tuple(sorted(marks)),
        notes=tuple(notes),
    )


def _interval(records: Sequence[Record]) -> str:
    """How the interval of their metric is made."""
    return next((r.primary.interval for r in records if r.primary is not None), "")


def _delong(summary: Summary, found: Side | None) -> tuple[float, float] | None:
    """95 % interval of the mean by DeLong; of one record also where its predictions are elsewhere."""
    if found is None or (known := found.delong_interval()) is not None:
        return known if found is not None else None
    block = summary.counted[0].draws if len(summary.counted) == 1 else None
    if block is None or block.delong_se is None or found.mean is None:
        return None
    return logit_bounds(found.mean, block.delong_se, block.drawn().units)


def _seed(results: Results, record: Record, summary: Summary) -> Seed:
    metric = record.primary
    return Seed(
        seed=record.identity.seed,
        value=None if metric is None else metric.value,
        low=None if metric is None else metric.low,
        high=None if metric is None else metric.high,
        cell_id=record.cell_id,
        path=results.path(record),
        repeats=summary.repeated.get(record.cell_id),
    )


# Comparisons and ranks.


def _comparisons(
    rows: Sequence[Row], columns: Sequence[Column], sides: Mapping[_Key, Side]
) -> list[Comparison]:
    """Every pair of rows in every column, by column and name; adjusted over all of them together."""
    found: list[Comparison] = []
    for column in columns:
        keys = [row.key for row in rows if (row.key, column.key) in sides]
        pairs = combinations(keys, 2)
        found += [
            Comparison(a, b, column.key, difference, None)
            for (a, b), difference in zip(
                pairs, differences([sides[key, column.key] for key in keys]), strict=True
            )
        ]
    adjusted = holm([one.difference.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def _ranked(
    cells: Mapping[_Key, Cell], columns: Sequence[Column], comparisons: Sequence[Comparison]
) -> dict[_Key, Cell]:
    """The cells with their ranks.

    A method with much noise of its own, a low mean and few seeds that disagree, can be told from nobody. It is then
    not among the best for that: its rank is no better than that of a method with a higher mean. So two methods may have
    one rank by chance of the counting and yet differ beyond noise: they are not tied.
    """
    sign = {column.key: 1 if column.higher_is_better else -1 for column in columns}
    better: dict[_Key, int] = {}
    for one in comparisons:
        if one.p_holm is None or one.difference.value is None:
            continue
        a, b = (one.a, one.column), (one.b, one.column)
        better.setdefault(a, 0)
        better.setdefault(b, 0)
        if beyond_noise(one):
            better[b if sign[one.column] * one.difference.value > 0 else a] += 1
    means = {place: cells[place].mean or 0.0 for place in better}
    worst: dict[str, int] = {}
    for place in sorted(better, key=lambda p: -sign[p[1]] * means[p]):  # from the best mean down
        worst[place[1]] = better[place] = max(better[place], worst.get(place[1], 0))
    tied: set[_Key] = set()
    for one in comparisons:
        a, b = (one.a, one.column), (one.b, one.column)
        alike = one.difference.value == 0 or (one.p_holm is not None and not beyond_noise(one))
        if alike and a in better and b in better and better[a] == better[b]:
            tied |= {a, b}
    return {
        place: replace(cell, rank=1 + better[place], tied=place in tied) if place in better else cell
        for place, cell in cells.items()
    }


def _ranking(rows: Sequence[Row], columns: Sequence[Column], sides: Mapping[_Key, Side]) -> Ranking:
    """Of the complete rows: those that have a value wherever any row has one."""
    shown = [c for c in columns if any((row.key, c.key) in sides for row in rows)]
    keys = tuple(column.key for column in shown)
    complete = [row for row in rows if shown and all((row.key, c.key) in sides for c in shown)]
    if not complete:
        return Ranking(keys, (), None, 0)
    means = np.empty((len(complete), len(shown)))
    draws: list[Floats | None] = []
    for number, column in enumerate(shown):
        sign = 1 if column.higher_is_better else -1
        own = [sides[row.key, column.key] for row in complete]
        means[:, number] = [sign * one.values.mean() for one in own]
        drawn = [one.draws for one in own if one.draws is not None]
        same = len(drawn) == len(own) and len({noise.key for noise in drawn}) == 1
        draws.append(np.stack([sign * noise.moves for noise in drawn]) if same else None)
    # A task weighs one, however many label fractions it has.
    tasks = Counter(column.task for column in shown)
    weights = np.array([1 / (len(tasks) * tasks[column.task]) for column in shown])
    found = mean_ranks(means, draws, weights)
    ranks = tuple(MeanRank(row.key, *numbers) for row, numbers in zip(complete, found, strict=True))
    return Ranking(keys, ranks, critical_difference(len(complete), len(tasks)), len(tasks))


# What is missing, and what has to be said.


def _missing(
    catalogue: Catalogue,
    rows: Sequence[Row],
    columns: Sequence[Column],
    places: Mapping[_Key, Summary],
    by_column: Mapping[str, Sequence[Record]],
) -> Iterator[Missing]:
    """Every place that lacks a seed which its row has somewhere else."""
    for row in rows:
        ran = {s for c in columns for s in places[row.key, c.key].seeds if s is not None} or {0}
        overrides: tuple[dict[str, str], str] | None = None
        for column in columns:
            place = places[row.key, column.key]
            lacking = sorted(ran - place.seeds)
            never = place.status == "n/a" and not place.records
            if None in place.seeds or never or not lacking:
                continue
            overrides = overrides or changed(catalogue, row.identity)  # imports the method: only where needed
            fields, why = overrides
            where = by_column[column.key][0].identity
            split = named_split(catalogue, where)
            what = "" if why else command(row.identity, where, column.trains, lacking, split, fields)
            yield Missing(row.key, column.key, tuple(lacking), what, why)


def _pairs(columns: Sequence[Column], summaries: Mapping[_Key, Summary]) -> int:
    """How many comparisons there would be: every pair of rows in every column where both have a value."""
    filled = Counter(column for (_, column), summary in summaries.items() if summary.counted)
    return sum(filled[column.key] * (filled[column.key] - 1) // 2 for column in columns)


def _notes(
    rows: Sequence[Row], columns: Sequence[Column], sides: Mapping[_Key, Side], compared: bool
) -> Iterator[str]:
    if not compared:
        yield (
            f"{len(rows):,} rows in {len(columns)} columns are more than {COMPARED:,} pairs: none was compared, so no "
            "cell has a rank, and means over seeds have no interval. `medbench compare` compares two methods"
        )
    alone = [c.name for c in columns if sum((row.key, c.key) in sides for row in rows) == 1]
    if len(rows) > 1 and alone:
        yield f"nothing to compare with in {', '.join(alone)}"
