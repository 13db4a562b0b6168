"""Records among each other: what a consistent set of them can not hold.

Of records that disagree those with fewer sound ones on their side are named; where sides are equal, all are.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from medbench.disclosure import KEY, is_score
from medbench.records import Record
from medbench.verify.record import Verdict

_TRUTH = ("target_", "true_")
_ATTRIBUTES = ("patient", "sex", "age", "view", "class")


@dataclass(frozen=True)
class _Digest:
    """Of the predictions of one record, so that not all of them have to be kept.

    Attributes:
        verdict: of the record.
        sound: whether nothing was wrong with it by itself; only such records have a vote.
        scores: hash over what the model says of which film; "" where it says the same of all, or nothing.
        truth: hash over each column of truth, by film.
        positives: of each target column.
        films: hash over the rows' names.
        file: hash of the file of predictions as recorded; "" where all draws are one number, as of models that say
            the same of every film.
    """

    verdict: Verdict
    sound: bool
    record: Record
    scores: str = ""
    truth: dict[str, str] = field(default_factory=dict)
    positives: dict[str, int] = field(default_factory=dict)
    films: str = ""
    file: str = ""


_Of = Callable[[_Digest], Hashable]


class Agreement:
    """Gathers records one by one; `close` then adds to their verdicts what they say against each other."""

    def __init__(self) -> None:
        self._digests: list[_Digest] = []

    def add(self, verdict: Verdict) -> None:
        """Take a record; its predictions may be forgotten afterwards."""
        if verdict.record is not None:
            self._digests.append(_digest(verdict, verdict.record))

    def close(self) -> None:
        """Add what is wrong among all records that were taken."""
        self._one_cell()
        self._repeats()
        self._equal(_test_set, _films, "its rows are about other films than those")
        for column in sorted({name for each in self._digests for name in each.truth}):
            own = column.startswith("true_") or column == "class"  # as one task sees it
            truth, positives = partial(_truth, column), partial(_positives, column)
            self._equal(_task if own else _test_set, truth, f"{column} differs from that", positives)
        self._equal(_task, _resample, "draws are of other patients or strata than those", _drawn_positives)
        for name in ("auroc", "macro_auroc"):  # the n of others can depend on what is predicted
            self._equal(_task, partial(_n, name), f"{name}: n is not that", partial(_n, name))
        self._equal(_train_set, _train_patients, "counts: train_patients is not that", _train_patients)

    def _one_cell(self) -> None:
        for same in _groups(self._digests, lambda each: each.record.cell_id):
            for each, other in _pairs(same):
                each.verdict.problems.append(f"the same cell as {_name(other)}")

    def _repeats(self) -> None:
        """Predictions that are equal to the last bit, of cells that can not have the same."""
        told: set[int] = set()
        scored = [each for each in self._digests if each.scores]
        filed = [
            each for each in self._digests if each.file
        ]  # those without predictions are told by their hash
        by_scores = _groups(scored, lambda each: (*_task(each), each.scores))
        by_file = _groups(filed, lambda each: (*_task(each), each.file))
        for same in (*by_scores, *by_file):
            for each in same:
                if id(each) in told:
                    continue
                for why, differs in _COPIES.items():
                    other = next((o for o in same if differs(each.record, o.record)), None)
                    if other is not None:
                        each.verdict.problems.append(f"{why}: the same predictions as {_name(other)}")
                        told.add(id(each))
                        break

    def _equal(self, group: _Of, value: _Of, message: str, shown: _Of | None = None) -> None:
        """Within a group, every record that has `value` has the same."""
        known = [each for each in self._digests if value(each) is not None]
        for members in _groups(known, group):
            voting = [each for each in members if each.sound] or members
            sides = Counter(value(each) for each in voting).most_common()
            even = len(sides) > 1 and sides[0][1] == sides[1][1]
            for each in members:
                if value(each) == sides[0][0] and not even:
                    continue
                other = next((o for o in voting if value(o) != value(each)), None)
                if other is None:
                    continue
                mine, theirs = (None, None) if shown is None else (shown(each), shown(other))
                numbers = f" ({mine} here, {theirs} there)" if mine != theirs else ""
                each.verdict.problems.append(f"{message} of {_name(other)}, of the same test set{numbers}")


def _other_method(one: Record, other: Record) -> bool:
    return one.identity.method != other.identity.method


def _other_seed(one: Record, other: Record) -> bool:
    return one.identity.seed != other.identity.seed and one.identity.fraction == other.identity.fraction


def _other_fraction(one: Record, other: Record) -> bool:
    return one.identity.fraction != other.identity.fraction


_COPIES = {
    "of another method": _other_method,
    "a repeat, of another seed": _other_seed,
    "of another label fraction": _other_fraction,
}


def _groups(digests: Sequence[_Digest], by: _Of) -> Iterator[list[_Digest]]:
    """Those of more than one member."""
    found: dict[Hashable, list[_Digest]] = defaultdict(list)
    for each in digests:
        found[by(each)].append(each)
    return (members for members in found.values() if len(members) > 1)


def _pairs(members: Sequence[_Digest]) -> Iterator[tuple[_Digest, _Digest]]:
    """Every member with another one."""
    return ((each, members[1] if number == 0 else members[0]) for number, each in enumerate(members))


def _test_set(each: _Digest) -> tuple[Hashable, ...]:
    identity = each.record.identity
    return identity.dataset, identity.data_fingerprint, identity.split_sha256, each.verdict.keyed


def _task(each: _Digest) -> tuple[Hashable, ...]:
    identity = each.record.identity
    return *_test_set(each), identity.task, identity.task_version, identity.recipe


def _train_set(each: _Digest) -> tuple[Hashable, ...]:
    return *_test_set(each), each.record.identity.train_sha256, each.record.status


def _truth(column: str, each: _Digest) -> str | None:
    return each.truth.get(column)


def _positives(column: str, each: _Digest) -> int | None:
    return each.positives.get(column)


def _resample(each: _Digest) -> str | None:
    return None if each.record.draws is None else each.record.draws.resample


def _drawn_positives(each: _Digest) -> str | None:
    return None if each.record.draws is None else f"{each.record.draws.positive_samples} positives"


def _n(metric: str, each: _Digest) -> int | None:
    return next((found.n for found in each.record.metrics if found.name == metric), None)


def _train_patients(each: _Digest) -> int:
    return each.record.counts.train_patients


def _films(each: _Digest) -> str | None:
    """Retrieval leaves out films without a report, which other tasks have."""
    return each.films if each.films and "films_without_report" not in each.record.search else None


def _name(each: _Digest) -> str:
    return "/".join(each.verdict.path.parts[-4:])


def _digest(verdict: Verdict, record: Record) -> _Digest:
    table = verdict.predictions
    named = KEY if verdict.keyed else "sample"
    if table is None or named not in table:
        return _Digest(verdict, verdict.accepted, record, file=_file(record))
    by = [name for name in (named, "direction") if name in table]
    table = table.sort_values(by, kind="stable", ignore_index=True)
    scores = [
        name for name in map(str, table.columns) if is_score(name) and name not in ("direction", "gallery")
    ]
    told = [
        name
        for name in scores
        if not name.startswith("threshold_") and name not in ("classes", "height", "width")
    ]
    ranks = [name for name in ("class_order", "pair_above") if name in table]
    truth = [name for name in map(str, table.columns) if name.startswith(_TRUTH) or name in _ATTRIBUTES]
    once = table.drop_duplicates(named)
    constant = all(_constant(table[name]) for name in (*told, *ranks))
    return _Digest(
        verdict,
        verdict.accepted,
        record,
        "" if constant else _sha256(table[[*by, *told, *ranks]]),
        {name: _sha256(once[[named, name]]) for name in truth},
        {name: int((once[name] == 1).sum()) for name in truth if name.startswith("target_")},
        _sha256(once[[named]]),
        "" if constant else _file(record),
    )


def _file(record: Record) -> str:
    primary = record.primary
    if record.predictions is None or primary is None or primary.low == primary.high:
        return ""
    return record.predictions.sha256


def _constant(column: pd.Series) -> bool:
    """Whether all rows say the same: two models that learnt nothing may do so alike."""
    if pd.api.types.is_numeric_dtype(column):
        return column.nunique(dropna=False) < 2
    first = _plain(column.iloc[0]) if len(column) else None
    return all(_plain(value) == first for value in column)


def _sha256(table: pd.DataFrame) -> str:
    """Over the values of a table; the same for equal values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in table.columns:
        column = table[name]
        digest.update(str(name).encode())
        if pd.api.types.is_numeric_dtype(column):
            digest.update(column.to_numpy(np.float64).tobytes())
        else:
            digest.update(json.dumps([_plain(value) for value in column]).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | list) else None if pd.isna(value) else str(value)
